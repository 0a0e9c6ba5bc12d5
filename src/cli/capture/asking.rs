//! Where something was captured, where that is only a guess: a person on a terminal is asked, nobody else is kept waiting.

use std::io::{BufRead, IsTerminal, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::capture::vantage::Guess;

/// Answers that are not understood before the guess is taken.
const TRIES: usize = 3;

/// How long an answer is waited for, seconds: somebody may have left, or a terminal may be nobody's.
const WAIT_S: i64 = 60;

/// Whether `name` was captured behind a proxy: what was guessed, where that is sure; else what a person says, on a terminal; else
/// what was guessed, with a warning.
pub(super) fn asked(name: &str, guess: &Guess) -> bool {
    if guess.is_sure() || !somebody_is_there() {
        return guessed(name, guess);
    }
    let stdin = std::io::stdin();
    let mut answer = [PollFd::new(&stdin, PollFlags::IN)];
    let wait = Timespec { tv_sec: WAIT_S, tv_nsec: 0 };
    ask(name, guess, || poll(&mut answer, Some(&wait)).is_ok_and(|n| n > 0), &mut stdin.lock())
}

/// What was guessed, with a warning where that is not sure: for those who cannot be asked.
pub(super) fn guessed(name: &str, guess: &Guess) -> bool {
    if !guess.is_sure() {
        drop(writeln!(
            std::io::stderr(),
            "replay: warning: {name}: taken as captured {}, which is a guess: {guess}. --captured-at edge or behind-proxy says it",
            place(guess.behind_proxy())
        ));
    }
    guess.behind_proxy()
}

/// Whether standard input is the terminal of somebody who sees what is asked: a job in the background would be stopped for good.
fn somebody_is_there() -> bool {
    let stdin = std::io::stdin();
    let ours = || rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp());
    std::io::stderr().is_terminal() && stdin.is_terminal() && ours()
}

fn place(behind_proxy: bool) -> &'static str {
    if behind_proxy { "behind a proxy" } else { "at the edge" }
}

/// Asks; `comes` waits for an answer and says whether there is one.
fn ask(name: &str, guess: &Guess, mut comes: impl FnMut() -> bool, input: &mut impl BufRead) -> bool {
    let (by_default, mut err) = (guess.behind_proxy(), std::io::stderr());
    drop(writeln!(
        err,
        "replay: {name}: was it captured at the edge, where connections are those of clients, or behind a proxy, whose connections \
         they are? {guess}."
    ));
    for _ in 0..TRIES {
        let default = if by_default { "e/P" } else { "E/p" };
        drop(write!(err, "replay: (e)dge or behind a (p)roxy? [{default}] "));
        drop(err.flush());
        if !comes() {
            drop(writeln!(err));
            break;
        }
        let mut line = String::new();
        match (input.read_line(&mut line), line.trim().to_ascii_lowercase().as_str()) {
            (Err(_) | Ok(0), _) => break,
            (_, "") => return by_default,
            (_, "e" | "edge") => return false,
            (_, "p" | "proxy" | "behind-proxy") => return true,
            _ => {}
        }
    }
    guessed(name, guess)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_silence() {
        let unsure = |forwarded| Guess { requests: 100, forwarded, peers: 50 };
        let table = [
            ("\n", 90, true),
            ("\n", 40, false),
            ("", 90, true),
            ("E\n", 90, false),
            ("edge\n", 90, false),
            ("p\n", 40, true),
            ("what\nPROXY\n", 40, true),
            ("a\nb\nc\np\n", 40, false),
        ];
        for (said, forwarded, want) in table {
            let guess = unsure(forwarded);
            assert!(!guess.is_sure());
            assert_eq!(ask("a.log", &guess, || true, &mut said.as_bytes()), want, "{said:?}");
        }
        for forwarded in [40, 90] {
            let never = ask("a.log", &unsure(forwarded), || false, &mut &b"e\np\n"[..]);
            assert_eq!(never, forwarded == 90, "nobody came: the guess");
        }
    }
}
