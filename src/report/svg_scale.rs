//! Numbers to places and words for [`super::svg`]: scales, ticks, thinning, colours, text that fits.

use super::svg::*;

/// Range of the value axis: whole steps that hold zero, the data and the limits near it.
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) step: f64,
    /// Limits beyond this, on either side of zero, are off the scale.
    pub(super) reach: f64,
}

impl Scale {
    pub(super) fn of(series: &[Vec<Point>], limits: &[Limit]) -> Self {
        let values: Vec<f64> = series.iter().flatten().filter_map(|p| p.1).collect();
        let limits: Vec<f64> = limits.iter().map(|l| l.value).filter(|v| sane(*v)).collect();
        let mut largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        if largest < 1e-12 {
            // Nothing but zeros, or nothing: the nearest limit says what would be large.
            largest = limits.iter().map(|v| v.abs()).filter(|v| *v > 0.0).fold(VALUE_MAX, f64::min);
        }
        let reach = OFF_SCALE * largest;
        let near = limits.into_iter().filter(|v| v.abs() <= reach);
        let (low, high) = near.chain(values).fold((0.0_f64, 0.0_f64), |(a, b), v| (a.min(v), b.max(v)));
        let (low, high) = if high - low < 1e-12 { (0.0, 1.0) } else { (low, high) };
        let step = nice_step((high - low) / 4.0);
        // The tolerance keeps 0.3 / 0.1 from costing an empty step.
        let (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        Self { low, high, step, reach }
    }

    pub(super) fn shows(&self, limit: f64) -> bool {
        sane(limit) && limit.abs() <= self.reach
    }

    pub(super) fn y(&self, v: f64, top: f64) -> f64 {
        top + PLOT_HEIGHT * (self.high - v) / (self.high - self.low)
    }

    pub(super) fn ticks(&self) -> Vec<f64> {
        let (first, last) = ((self.low / self.step).round() as i64, (self.high / self.step).round() as i64);
        (first..=last).map(|i| i as f64 * self.step).collect()
    }
}

pub(super) fn sane(v: f64) -> bool {
    v.is_finite() && v.abs() <= VALUE_MAX
}

/// The points in order of time, with what is no number made absent.
pub(super) fn clean(points: &[Point]) -> Vec<Point> {
    let on_axis = points.iter().filter(|p| sane(p.0) && p.0 >= 0.0);
    let mut out: Vec<Point> = on_axis.map(|(t, v)| (*t, v.filter(|v| sane(*v)))).collect();
    out.sort_by(|a, b| a.0.total_cmp(&b.0));
    out
}

pub(super) fn by_time(marks: &[Mark]) -> Vec<&Mark> {
    let mut out: Vec<&Mark> = marks.iter().filter(|m| sane(m.at_s)).collect();
    out.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    out
}

pub(super) fn x_of(t: f64, span_s: f64) -> f64 {
    LEFT + PLOT_WIDTH * (t / span_s).clamp(0.0, 1.0)
}

/// At most about [`POINTS_MAX`] points: the extremes of each pixel column, one absence if it has any, and
/// its first or last point where the neighbouring column is empty.
pub(super) fn thin(points: &[Point], span_s: f64) -> Vec<Point> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let column = |p: &Point| (x_of(p.0, span_s) - LEFT) as i64;
    let chunks: Vec<&[Point]> = points.chunk_by(|a, b| column(a) == column(b)).collect();
    let place = |i: usize| chunks.get(i).and_then(|c| c.first()).map(column);
    let mut out = Vec::new();
    for (i, chunk) in chunks.iter().enumerate() {
        let here = place(i).unwrap_or(0);
        let value = |(at, p): (usize, &Point)| p.1.map(|v| (at, v));
        let valued = || chunk.iter().enumerate().filter_map(value);
        let kept = [
            valued().min_by(|a, b| a.1.total_cmp(&b.1)).map(|p| p.0),
            valued().max_by(|a, b| a.1.total_cmp(&b.1)).map(|p| p.0),
            chunk.iter().position(|p| p.1.is_none()),
            (i.checked_sub(1).and_then(place) != Some(here - 1)).then_some(0),
            (place(i + 1) != Some(here + 1)).then_some(chunk.len() - 1),
        ];
        let mut keep: Vec<usize> = kept.into_iter().flatten().collect();
        keep.sort_unstable();
        keep.dedup();
        out.extend(keep.into_iter().filter_map(|at| chunk.get(at)).copied());
    }
    out
}

/// Path data; an absent value lifts the pen. A point on its own becomes a dot by its round caps.
pub(super) fn line_path(points: &[Point], style: Line, span_s: f64, y_of: impl Fn(f64) -> f64) -> String {
    let mut d = String::new();
    let mut down = false;
    for (t, value) in points {
        let x = x_of(*t, span_s);
        d += &match (value, down, style) {
            (Some(v), false, _) => format!("M{x:.1} {:.1}h0", y_of(*v)),
            (Some(v), true, Line::Step) => format!("H{x:.1}V{:.1}", y_of(*v)),
            (Some(v), true, Line::Solid | Line::Dashed) => format!("L{x:.1} {:.1}", y_of(*v)),
            (None, true, Line::Step) => format!("H{x:.1}"),
            (None, _, _) => String::new(),
        };
        down = value.is_some();
    }
    d
}

/// Where any series of a panel has no data, as left and right edges in pixels, joined where they touch.
pub(super) fn holes(panel: &Panel, series: &[Vec<Point>], span_s: f64) -> Vec<(f64, f64)> {
    let mut raw = Vec::new();
    for (look, points) in panel.series.iter().zip(series) {
        let (mut from, mut drawn_to) = (None, None);
        for (t, value) in points {
            if value.is_some() {
                raw.extend(from.take().map(|from| (from, *t)));
            } else if from.is_none() {
                // A step holds its value until the absence; a line ends at its last point.
                from = drawn_to.filter(|_| look.style != Line::Step).or(Some(*t));
            }
            drawn_to = value.map(|_| *t).or(drawn_to);
        }
        raw.extend(from.zip(points.last().map(|p| p.0)));
    }
    raw.sort_by(|a: &(f64, f64), b| a.0.total_cmp(&b.0));
    let mut out: Vec<(f64, f64)> = Vec::new();
    for (from, to) in raw.into_iter().map(|(a, b)| (x_of(a, span_s), x_of(b, span_s))) {
        match out.last_mut() {
            Some(last) if from <= last.1 + 1.0 => last.1 = last.1.max(to),
            // A single absent point still shows.
            Some(_) | None => out.push((from, to.max(from + 1.5))),
        }
    }
    out
}

/// Legend of a panel: limits that are off the scale, its lines, and what hatching means.
pub(super) fn panel_keys(panel: &Panel, scale: &Scale, has_holes: bool) -> Vec<Key> {
    let off = panel.limits.iter().filter(|l| sane(l.value) && !scale.shows(l.value));
    let notes = off.map(|l| (String::new(), format!("{} (off scale)", limit_text(l, &panel.unit))));
    let line = |s: &Series| format!("<path d='M0 -4h18' {}/>", stroke(s.colour, s.style));
    let lines = panel.series.iter().map(|s| (line(s), s.name.clone()));
    let hole = has_holes.then(|| (swatch("url(#gap)"), "no data".to_owned()));
    notes.chain(lines).chain(hole).collect()
}

pub(super) fn swatch(fill: &str) -> String {
    format!("<rect y='-9' width='18' height='10' fill='{fill}'/>")
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `raw`.
pub(super) fn nice_step(raw: f64) -> f64 {
    let power = 10_f64.powi(raw.log10().floor() as i32);
    let wide_enough = |m: &f64| m * power >= raw * 0.999_999;
    power * [1.0, 2.0, 2.5, 5.0].into_iter().find(wide_enough).unwrap_or(10.0)
}

/// Times to label: at most ten, on steps people count in.
pub(super) fn time_ticks(span_s: f64) -> Vec<f64> {
    const STEPS_S: [u32; 15] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200, 21_600];
    const DAY_S: f64 = 86_400.0;
    let raw = span_s / 9.0;
    let step = match STEPS_S.into_iter().map(f64::from).find(|s| *s >= raw) {
        _ if raw <= 0.5 => nice_step(raw),
        Some(listed) => listed,
        None => nice_step(raw / DAY_S) * DAY_S,
    };
    (0..=(span_s / step + 1e-9) as i64).map(|i| i as f64 * step).collect()
}

pub(super) fn time_text(t: f64, span_s: f64) -> String {
    match span_s {
        s if s <= 180.0 => quantity(t, "s"),
        s if s <= 10_800.0 => quantity(t / 60.0, "min"),
        _ => quantity(t / 3_600.0, "h"),
    }
}

/// A value with its unit, `ratio` as percent.
pub(super) fn quantity(v: f64, unit: &str) -> String {
    match unit {
        "" => number(v),
        "ratio" => format!("{} %", number(v * 100.0)),
        _ => format!("{} {unit}", number(v)),
    }
}

/// Three digits and a suffix: `0.5`, `25`, `1.2k`.
pub(super) fn number(v: f64) -> String {
    let suffixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (unit, suffix) = suffixes.into_iter().find(|(u, _)| v.abs() >= *u).unwrap_or((1.0, ""));
    let scaled = v / unit;
    if scaled.abs() < 1e-12 {
        return "0".to_owned();
    }
    let digits = (2.0 - scaled.abs().log10().floor()).clamp(0.0, 15.0) as usize;
    let text = format!("{scaled:.digits$}");
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{short}{suffix}")
}

/// Name and value of a limit. Whole numbers stay as the policy wrote them; the axis has the unit.
pub(super) fn limit_text(limit: &Limit, unit: &str) -> String {
    let whole = limit.value.fract().abs() < 1e-9 && limit.value.abs() < 1e5;
    let value = match unit {
        "ratio" => quantity(limit.value, unit),
        _ if whole => format!("{:.0}", limit.value),
        _ => number(limit.value),
    };
    format!("{} {value}", limit.name)
}

pub(super) fn stroke(colour: Colour, line: Line) -> String {
    let (width, dash) = match line {
        Line::Solid => ("1.7", ""),
        Line::Dashed => ("1.4", "stroke-dasharray='5 4' "),
        Line::Step => ("1.5", ""),
    };
    let ink = colour.hex();
    let ends = "stroke-linecap='round' stroke-linejoin='round'";
    format!("fill='none' stroke='{ink}' stroke-width='{width}' {dash}{ends}")
}

impl Colour {
    pub(super) const fn hex(self) -> &'static str {
        match self {
            Self::Blue => "#2563eb",
            Self::Green => "#15913f",
            Self::Orange => "#d9680a",
            Self::Red => "#d92626",
            Self::Grey => "#7b8794",
            Self::Purple => "#7c3aed",
        }
    }
}

/// Colour of a phase; an unknown one is grey.
pub(super) fn phase_fill(name: &str) -> &'static str {
    match name {
        "preflight" => "#cbd5e1",
        "probe" => "#a5d8ff",
        "ramp" => "#99e9d8",
        "measure" => "#a9e5a0",
        "hold" => "#fde68a",
        "back_off" => "#fdba74",
        "recover" => "#d0bfff",
        "aborting" | "aborted" => "#fca5a5",
        "draining" | "done" => "#d6dde6",
        _ => "#e2e8f0",
    }
}

/// Estimated width in pixels, rather too wide; characters beyond ASCII may be full-width.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let em = |c| match c {
        c if " !'(),-./:;·Ifijltr".contains(c) => 0.34,
        c if "MWmw%@".contains(c) => 0.88,
        'A'..='Z' => 0.68,
        ' '..='~' => 0.57,
        _ => 1.0,
    };
    text.chars().map(em).sum::<f64>() * size
}

/// The text, cut with an ellipsis to fit `wide` pixels.
pub(super) fn fit(text: &str, size: f64, wide: f64) -> String {
    if text_width(text, size) <= wide {
        return text.to_owned();
    }
    let mut left = wide - size;
    let fits = |c: &char| {
        left -= text_width(c.encode_utf8(&mut [0; 4]), size);
        left >= 0.0
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// Text as XML; characters XML cannot hold become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}
