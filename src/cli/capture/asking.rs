//! Where something was captured, where that is only a guess: a person on a terminal is asked, nobody else is kept waiting.

use std::io::{BufRead, IsTerminal, Write};

use crate::capture::vantage::Guess;

/// Answers that are not understood before the guess is taken.
const TRIES: usize = 3;

/// Whether `name` was captured behind a proxy: what was guessed, where that is sure; else what a person says, on a terminal; else
/// what was guessed, with a warning.
pub(super) fn behind_proxy(name: &str, guess: &Guess) -> bool {
    let (mut err, stdin) = (std::io::stderr(), std::io::stdin());
    if guess.is_sure() {
        return guess.behind_proxy();
    }
    // Whoever reads standard input as a capture cannot be asked by it; then it is no terminal.
    if !(err.is_terminal() && stdin.is_terminal()) {
        drop(writeln!(
            err,
            "replay: warning: {name}: taken as captured {}, which is a guess: {guess}. --captured-at edge or behind-proxy says it",
            place(guess.behind_proxy())
        ));
        return guess.behind_proxy();
    }
    ask(name, guess, &mut stdin.lock(), &mut err)
}

fn place(behind_proxy: bool) -> &'static str {
    if behind_proxy { "behind a proxy" } else { "at the edge" }
}

fn ask(name: &str, guess: &Guess, input: &mut impl BufRead, err: &mut impl Write) -> bool {
    let guessed = guess.behind_proxy();
    drop(writeln!(
        err,
        "replay: {name}: was it captured at the edge, where connections are those of clients, or behind a proxy, whose connections \
         they are? {guess}."
    ));
    for _ in 0..TRIES {
        let default = if guessed { "e/P" } else { "E/p" };
        drop(write!(err, "replay: (e)dge or behind a (p)roxy? [{default}] "));
        drop(err.flush());
        let mut line = String::new();
        match (input.read_line(&mut line), line.trim().to_ascii_lowercase().as_str()) {
            (Err(_) | Ok(0), _) | (_, "") => return guessed,
            (_, "e" | "edge") => return false,
            (_, "p" | "proxy" | "behind-proxy") => return true,
            _ => {}
        }
    }
    drop(writeln!(err, "replay: taken as captured {}", place(guessed)));
    guessed
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
            let (guess, mut out) = (unsure(forwarded), Vec::new());
            assert!(!guess.is_sure());
            assert_eq!(ask("a.log", &guess, &mut said.as_bytes(), &mut out), want, "{said:?}");
            let out = String::from_utf8(out).unwrap();
            assert!(out.contains(&format!("{forwarded} of 100 requests name a forwarded address")), "{out}");
        }
    }
}
