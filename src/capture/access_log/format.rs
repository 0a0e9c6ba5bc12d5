//! Which format a log has: named, given as the server's own directive, or told by its lines.

use super::json::JsonMap;
use super::partial::joined;
use super::presets::PRESETS;
use super::row::{Field, LineError, Row};
use super::template::{BadDirective, Mark, Template};
use super::w3c::{self, W3c};
use super::wrapper::{self, Wrapper};
use super::{apache, nginx};

/// Lines of a sample that are looked at.
const SAMPLE_LINES: usize = 200;

#[derive(Debug, Clone)]
enum Kind {
    Text {
        templates: Vec<Template>,
        /// The one that fitted last is tried first.
        last: usize,
        /// What stood around the last line.
        wrapper: Wrapper,
    },
    Json(JsonMap),
    W3c(W3c),
    Ltsv,
}

impl Default for Format {
    /// One that no line fits.
    fn default() -> Self {
        Self::text("", Vec::new())
    }
}

/// A format, ready to read lines.
#[derive(Debug, Clone)]
pub struct Format {
    /// Name, as `--format` takes it.
    pub name: String,
    kind: Kind,
    /// Says what the stamp is of, whatever the format says.
    pub mark: Option<Mark>,
}

impl Format {
    fn text(name: &str, templates: Vec<Template>) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Text { templates, last: 0, wrapper: Wrapper::None },
            mark: None,
        }
    }

    /// All names that [`Format::named`] takes.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        let mut all: Vec<&str> =
            PRESETS.iter().map(|p| p.name).chain(JsonMap::names()).chain(["w3c", "ltsv"]).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A format by name; `own` replaces fields of a JSON format.
    #[must_use]
    pub fn named(name: &str, own: &[(Field, String)]) -> Option<Self> {
        if let Some(map) = JsonMap::preset(name, None, own)
            .filter(|_| !PRESETS.iter().any(|p| p.name == name && own.is_empty()))
        {
            return Some(Self { name: name.to_owned(), kind: Kind::Json(map), mark: None });
        }
        if let Some(preset) = PRESETS.iter().find(|p| p.name == name) {
            return Some(Self::text(name, preset.templates()));
        }
        let kind = match name {
            "w3c" => Kind::W3c(W3c::default()),
            "ltsv" => Kind::Ltsv,
            _ => return None,
        };
        Some(Self { name: name.to_owned(), kind, mark: None })
    }

    /// A format from the server's configuration: nginx's `log_format` or Apache's `LogFormat`, whole or the format alone.
    ///
    /// # Errors
    /// [`BadDirective`].
    pub fn directive(text: &str) -> Result<Self, BadDirective> {
        let text = text.trim();
        let apache = text.starts_with("LogFormat")
            || (!text.starts_with("log_format") && text.contains('%') && !text.contains('$'));
        let (name, template) = if apache {
            ("apache-directive", apache::template(text)?)
        } else {
            ("nginx-directive", nginx::template(text)?)
        };
        Ok(Self::text(name, vec![template]))
    }

    /// The format that most lines of `sample` have; `None` where none fits.
    #[must_use]
    pub fn detect(sample: &[u8], own: &[(Field, String)]) -> Option<Self> {
        let mut lines = joined(sample);
        lines.truncate(SAMPLE_LINES);
        let texts = PRESETS.iter().map(|p| Self::text(p.name, p.templates()));
        let mut json: Vec<JsonMap> = Vec::new();
        for line in &lines {
            if let Some(map) = JsonMap::for_line(wrapper::object(line), own).filter(|m| !json.contains(m)) {
                json.push(map);
            }
        }
        let json =
            json.into_iter().map(|map| Self { name: map.name.clone(), kind: Kind::Json(map), mark: None });
        let columns = ["w3c", "ltsv"].into_iter().filter_map(|n| Self::named(n, own));
        let mut best: Option<(usize, Self)> = None;
        for format in texts.chain(json).chain(columns) {
            let mut trial = format.clone();
            let score: usize = lines.iter().map(|l| trial.score(l)).sum();
            if score > best.as_ref().map_or(0, |(s, _)| *s) {
                best = Some((score, format));
            }
        }
        best.map(|(_, format)| format)
    }

    fn score(&mut self, line: &[u8]) -> usize {
        if self.comment(line) {
            return 0;
        }
        match self.parse(line) {
            Ok(_) => 3,
            // The line has the form; what stands in it is no request.
            Err(LineError::Request) => 2,
            Err(_) => 0,
        }
    }

    /// Takes a line that is none of a request by its looks: headers of W3C logs, and comments. True where it was one.
    pub fn comment(&mut self, line: &[u8]) -> bool {
        if !line.starts_with(b"#") {
            return false;
        }
        if let Kind::W3c(w3c) = &mut self.kind {
            w3c.header(line);
        }
        true
    }

    /// Begins with the form that fitted the last line of a sample, which `trial` has read.
    pub fn begin_as(&mut self, trial: &Self) {
        if let (Kind::Text { last, wrapper, .. }, Kind::Text { last: l, wrapper: w, .. }) =
            (&mut self.kind, &trial.kind)
        {
            (*last, *wrapper) = (*l, *w);
        }
    }

    /// Whether lines of such a log say how those behind them are read.
    #[must_use]
    pub fn has_headers(&self) -> bool {
        matches!(self.kind, Kind::W3c(_))
    }

    /// Reads one object of a JSON log or an HTTP archive.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse_value(&self, value: &serde_json::Value) -> Result<(Row<'static>, Mark), LineError> {
        match &self.kind {
            Kind::Json(map) => Ok((map.parse_value(value)?, map.mark)),
            Kind::Text { .. } | Kind::W3c(_) | Kind::Ltsv => {
                Err(LineError::Form { at: 0, want: "this is no format of JSON" })
            }
        }
    }

    /// Reads one line, and says what its stamp is of.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse<'a>(&'a mut self, line: &'a [u8]) -> Result<(Row<'a>, Mark), LineError> {
        let given = self.mark;
        let (row, mark) = match &mut self.kind {
            Kind::Text { templates, last, wrapper } => text(templates, last, wrapper, line)?,
            Kind::Json(map) => (map.parse(wrapper::object(line))?, map.mark),
            Kind::W3c(w3c) => (w3c.parse(line)?, Mark::End),
            Kind::Ltsv => (w3c::ltsv(line)?, Mark::Start),
        };
        Ok((row, given.unwrap_or(mark)))
    }
}

/// Tries the template that fitted last, then the others; then the same without what may stand around the line.
fn text<'a>(
    templates: &[Template],
    last: &mut usize,
    wrapper: &mut Wrapper,
    line: &'a [u8],
) -> Result<(Row<'a>, Mark), LineError> {
    let mut first_error = None;
    let before = *wrapper;
    for around in std::iter::once(before).chain(Wrapper::ALL.into_iter().filter(|w| *w != before)) {
        let Some(candidate) = around.strip(line) else { continue };
        for (i, template) in templates.iter().enumerate().cycle().skip(*last).take(templates.len()) {
            match template.parse(candidate) {
                Ok(row) => {
                    (*last, *wrapper) = (i, around);
                    return Ok((row, template.mark));
                }
                Err(LineError::Request) => return Err(LineError::Request),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
    }
    Err(first_error.unwrap_or(LineError::Form { at: 0, want: "a line of this format" }))
}
