//! The timeline of a run as one stand-alone SVG picture.
//!
//! Panels share a time axis; the phases of the run lie behind them as bands, events cross them as lines.
//! Two rules keep the picture honest: absent data is hatched, never bridged by a line; and thinning a
//! long series keeps the lowest and highest value of every pixel column, so no spike is smoothed away.
//!
//! Widths of text are estimated, because a string has no font. Nothing is scripted or fetched.

use super::svg_scale::*;

/// Width of the picture, in pixels: what a code-hosting page shows without shrinking it.
pub(super) const WIDTH: f64 = 960.0;
/// Left edge of the plots; the gutter before it holds `1.2k req/s`.
pub(super) const LEFT: f64 = 86.0;
/// Width of a plot, and so its number of pixel columns: two points in each make [`POINTS_MAX`].
pub(super) const PLOT_WIDTH: f64 = 750.0;
/// Right edge of the plots; the gutter after it holds the names of limits.
pub(super) const RIGHT: f64 = LEFT + PLOT_WIDTH;
pub(super) const PLOT_HEIGHT: f64 = 112.0;
/// Height of the strip of phases.
pub(super) const STRIP: f64 = 16.0;
/// Points drawn of one series; a longer one is thinned to about this many.
pub(super) const POINTS_MAX: usize = 1_500;
/// A limit this many times above the data would flatten it: it is named, not drawn.
pub(super) const OFF_SCALE: f64 = 20.0;
/// Values past this are no measurement and count as absent; it also keeps the axis finite.
pub(super) const VALUE_MAX: f64 = 1e18;
/// Longest unit repeated at every tick, in characters; a longer one is written along the axis.
pub(super) const TICK_UNIT_MAX: usize = 5;
const TITLE: &str = "font-size='20' font-weight='600' fill='#1e293b'";
const SUBTITLE: &str = "font-size='12.5' fill='#64748b'";
const HEADING: &str = "font-size='13' font-weight='600' fill='#1e293b'";
const KEY: &str = "font-size='11.5' fill='#64748b'";
const TICK: &str = "font-size='11' fill='#64748b' text-anchor='end'";
const MIDDLE: &str = "font-size='11' fill='#64748b' text-anchor='middle'";
const LABEL: &str = "font-size='10.5' fill='#1e293b' text-anchor='middle'";
const HATCH: &str = "<pattern id='gap' width='6' height='6' patternUnits='userSpaceOnUse' \
    patternTransform='rotate(45)'><path d='M0 0V6' stroke='#94a3b8' stroke-width='1.6'/></pattern>";
const FONT: &str =
    "system-ui, -apple-system, &quot;Segoe UI&quot;, Roboto, &quot;Helvetica Neue&quot;, Arial, sans-serif";

const _: () = assert!(LEFT + PLOT_WIDTH < WIDTH && 2.0 * PLOT_WIDTH <= POINTS_MAX as f64);

/// Time in seconds and the value there, or none.
pub(super) type Point = (f64, Option<f64>);

/// A timeline to draw. Times before the start are not drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// Second line, smaller.
    pub subtitle: String,
    /// Length of the time axis, in seconds; stretched if data, bands or marks lie beyond it.
    pub duration_s: f64,
    /// Plots, from top to bottom.
    pub panels: Vec<Panel>,
    /// Phases of the run.
    pub bands: Vec<Band>,
    /// Events of the run.
    pub marks: Vec<Mark>,
}

/// One plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// What is shown.
    pub title: String,
    /// Unit of the values; `ratio` is shown in percent.
    pub unit: String,
    /// Lines, the last one on top.
    pub series: Vec<Series>,
    /// Thresholds.
    pub limits: Vec<Limit>,
}

/// One line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Colour of the line.
    pub colour: Colour,
    /// How points are joined.
    pub style: Line,
    /// Seconds and value; none where there is no data.
    pub points: Vec<(f64, Option<f64>)>,
}

/// Colour of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// The main quantity.
    Blue,
    /// Good.
    Green,
    /// Warning.
    Orange,
    /// Bad.
    Red,
    /// Context.
    Grey,
    /// A second quantity.
    Purple,
}

/// How points are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Straight, from point to point.
    Solid,
    /// The same, dashed: what was planned or allowed.
    Dashed,
    /// Each value holds until the next point.
    Step,
}

/// A threshold: a dashed level line with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Short name.
    pub name: String,
    /// Where it lies, in the unit of the panel.
    pub value: f64,
    /// Colour of line and name.
    pub colour: Colour,
}

/// A phase of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    /// Its start, in seconds.
    pub from_s: f64,
    /// Its end, in seconds.
    pub to_s: f64,
    /// Its name, which decides its colour.
    pub name: String,
}

/// An event of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// When, in seconds.
    pub at_s: f64,
    /// What happened.
    pub label: String,
}

impl Chart {
    /// Draws the chart. The same chart gives the same bytes.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut sheet = Sheet { chart: self, span_s: self.span_s(), out: String::new() };
        sheet.text(24.0, 34.0, TITLE, &fit(&self.title, 21.0, WIDTH - 48.0));
        sheet.text(24.0, 55.0, SUBTITLE, &fit(&self.subtitle, 12.5, WIDTH - 48.0));
        let strip = if self.marks.is_empty() { 72.0 } else { 92.0 };
        sheet.strip(strip);
        let bottom = self.panels.iter().fold(strip + STRIP, |y, panel| sheet.panel(panel, y));
        for t in time_ticks(sheet.span_s) {
            let x = x_of(t, sheet.span_s);
            sheet.path(&format!("M{x:.1} {bottom:.1}v4"), "stroke='#94a3b8'");
            sheet.text(x, bottom + 18.0, MIDDLE, &time_text(t, sheet.span_s));
        }
        let height = sheet.keys(LEFT, bottom + 44.0, &sheet.phase_keys()) + 16.0;
        let (title, about, body) = (escape(&self.title), escape(&self.subtitle), sheet.out);
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' \
             viewBox='0 0 {WIDTH} {height}' role='img' font-family='{FONT}'>\n<title>{title}</title>\n\
             <desc>{about}</desc>\n<defs>{HATCH}</defs>\n\
             <rect width='{WIDTH}' height='{height}' fill='#fff'/>\n{body}</svg>\n"
        )
    }

    /// Length of the time axis: everything given must fit on it.
    fn span_s(&self) -> f64 {
        let points = self.panels.iter().flat_map(|p| &p.series).flat_map(|s| &s.points).map(|p| p.0);
        let ends = self.bands.iter().map(|b| b.to_s).chain(self.marks.iter().map(|m| m.at_s));
        let span = points.chain(ends).chain([self.duration_s]).filter(|t| sane(*t)).fold(0.0, f64::max);
        if span > 1e-6 { span } else { 1.0 }
    }
}

impl Band {
    /// Left edge and width in pixels; none if it is not a span of time.
    fn edges(&self, span_s: f64) -> Option<(f64, f64)> {
        let shown = sane(self.from_s) && sane(self.to_s) && self.to_s > self.from_s.max(0.0);
        let (from, to) = (x_of(self.from_s, span_s), x_of(self.to_s, span_s));
        shown.then_some((from, to - from))
    }

    fn name_fits(&self, span_s: f64) -> bool {
        self.edges(span_s).is_some_and(|(_, wide)| text_width(&self.name, 10.5) + 6.0 <= wide)
    }
}

/// An entry of a legend: the SVG of its sign, 18 pixels wide or empty, and its name.
pub(super) type Key = (String, String);

/// The picture as far as it is drawn.
struct Sheet<'a> {
    chart: &'a Chart,
    span_s: f64,
    out: String,
}

impl Sheet<'_> {
    fn path(&mut self, d: &str, look: &str) {
        self.out.push_str(&format!("<path d='{d}' {look}/>\n"));
    }

    /// A rectangle from `(x, width)` and `(y, height)`.
    fn rect(&mut self, (x, wide): (f64, f64), (y, high): (f64, f64), look: &str) {
        self.out
            .push_str(&format!("<rect x='{x:.1}' y='{y:.1}' width='{wide:.1}' height='{high}' {look}/>\n"));
    }

    fn text(&mut self, x: f64, y: f64, look: &str, text: &str) {
        if !text.is_empty() {
            self.out.push_str(&format!("<text x='{x:.1}' y='{y:.1}' {look}>{}</text>\n", escape(text)));
        }
    }

    /// The strip of phases with the labels of the marks above it.
    fn strip(&mut self, y: f64) {
        self.rect((LEFT, PLOT_WIDTH), (y, STRIP), "fill='#f1f5f9'");
        self.bands(y, STRIP, "stroke='#fff'");
        let (chart, span_s) = (self.chart, self.span_s);
        for band in chart.bands.iter().filter(|b| b.name_fits(span_s)) {
            let (x, wide) = band.edges(span_s).unwrap_or_default();
            self.text(x + wide / 2.0, y + 11.8, LABEL, &band.name);
        }
        self.marks(y - 4.0, STRIP + 4.0);
        let mut free_from = 8.0;
        for mark in by_time(&self.chart.marks) {
            let label = fit(&mark.label, 10.5, PLOT_WIDTH);
            let half = text_width(&label, 10.5) / 2.0;
            let middle = x_of(mark.at_s, self.span_s).clamp(8.0 + half, WIDTH - 8.0 - half);
            if middle - half >= free_from {
                self.text(middle, y - 7.0, LABEL, &label);
                free_from = middle + half + 8.0;
            }
        }
    }

    fn bands(&mut self, y: f64, high: f64, look: &str) {
        for band in &self.chart.bands {
            let Some(edges) = band.edges(self.span_s) else { continue };
            // The name pops up where it did not fit.
            self.out.push_str(&format!("<g><title>{}</title>", escape(&band.name)));
            self.rect(edges, (y, high), &format!("fill='{}' {look}", phase_fill(&band.name)));
            self.out.push_str("</g>\n");
        }
    }

    fn marks(&mut self, y: f64, high: f64) {
        for mark in by_time(&self.chart.marks) {
            self.out.push_str(&format!("<g><title>{}</title>", escape(&mark.label)));
            let x = x_of(mark.at_s, self.span_s);
            self.path(&format!("M{x:.1} {y:.1}v{high}"), "stroke='#475569' stroke-width='.8'");
            self.out.push_str("</g>\n");
        }
    }

    /// Draws a panel below `y`; returns where it ends.
    fn panel(&mut self, panel: &Panel, y: f64) -> f64 {
        let series: Vec<Vec<Point>> = panel.series.iter().map(|s| clean(&s.points)).collect();
        let scale = Scale::of(&series, &panel.limits);
        let holes = holes(panel, &series, self.span_s);
        self.text(LEFT, y + 27.0, HEADING, &fit(&panel.title, 14.0, PLOT_WIDTH));
        let beside = LEFT + text_width(&panel.title, 14.0) + 18.0;
        let top = self.keys(beside, y + 27.0, &panel_keys(panel, &scale, !holes.is_empty())) + 10.0;
        self.bands(top, PLOT_HEIGHT, "fill-opacity='.2'");
        self.grid(&panel.unit, &scale, top);
        for (from, to) in holes {
            self.rect((from, to - from), (top, PLOT_HEIGHT), "fill='url(#gap)' opacity='.4'");
        }
        self.marks(top, PLOT_HEIGHT);
        self.limits(panel, &scale, top);
        for (look, points) in panel.series.iter().zip(&series) {
            let d = line_path(&thin(points, self.span_s), look.style, self.span_s, |v| scale.y(v, top));
            self.path(&d, &stroke(look.colour, look.style));
        }
        if series.iter().flatten().all(|p| p.1.is_none()) {
            self.text(LEFT + PLOT_WIDTH / 2.0, top + PLOT_HEIGHT / 2.0 + 4.0, MIDDLE, "no data");
        }
        top + PLOT_HEIGHT
    }

    /// Level and upright lines with the numbers of the value axis.
    fn grid(&mut self, unit: &str, scale: &Scale, top: f64) {
        for t in time_ticks(self.span_s) {
            let d = format!("M{:.1} {top:.1}v{PLOT_HEIGHT}", x_of(t, self.span_s));
            self.path(&d, "stroke='#e2e8f0' stroke-width='.7'");
        }
        let each = unit.chars().count() <= TICK_UNIT_MAX;
        for v in scale.ticks() {
            let y = scale.y(v, top);
            let zero = v.abs() < scale.step / 2.0;
            let look = if zero { "stroke='#94a3b8'" } else { "stroke='#e2e8f0'" };
            self.path(&format!("M{LEFT} {y:.1}h{PLOT_WIDTH}"), look);
            self.text(LEFT - 8.0, y + 3.8, TICK, &quantity(v, if each { unit } else { "" }));
        }
        if !each {
            let y = top + PLOT_HEIGHT / 2.0;
            let turned = format!("{MIDDLE} transform='rotate(-90 24 {y:.1})'");
            self.text(24.0, y, &turned, &fit(unit, 11.0, PLOT_HEIGHT));
        }
    }

    /// Limits on the scale, their names beside the plot and moved apart where they would collide.
    fn limits(&mut self, panel: &Panel, scale: &Scale, top: f64) {
        let mut shown: Vec<&Limit> = panel.limits.iter().filter(|l| scale.shows(l.value)).collect();
        shown.sort_by(|a, b| b.value.total_cmp(&a.value));
        let mut free_from = top - 8.0;
        for (i, limit) in shown.iter().enumerate() {
            let (y, ink) = (scale.y(limit.value, top), limit.colour.hex());
            let look = format!("stroke='{ink}' stroke-width='1.2' stroke-dasharray='6 4'");
            self.path(&format!("M{LEFT} {y:.1}h{PLOT_WIDTH}"), &look);
            let below = 12.0 * (shown.len() - 1 - i) as f64;
            let label = (y + 3.6).min(top + PLOT_HEIGHT + 4.0 - below).max(free_from);
            let name = fit(&limit_text(limit, &panel.unit), 10.5, WIDTH - RIGHT - 12.0);
            self.text(RIGHT + 6.0, label, &format!("font-size='10.5' fill='{ink}'"), &name);
            free_from = label + 12.0;
        }
    }

    /// Legend of the phases whose name fits in none of their bands.
    fn phase_keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        for band in self.chart.bands.iter().filter(|b| b.edges(self.span_s).is_some()) {
            let mut same = self.chart.bands.iter().filter(|b| b.name == band.name);
            if !same.any(|b| b.name_fits(self.span_s)) && !keys.iter().any(|k| k.1 == band.name) {
                keys.push((swatch(phase_fill(&band.name)), band.name.clone()));
            }
        }
        keys
    }

    /// Writes a legend from (`x`, `y`) on, in as many lines as it needs; returns its last baseline.
    fn keys(&mut self, mut x: f64, mut y: f64, keys: &[Key]) -> f64 {
        for (sign, name) in keys {
            let name = fit(name, 11.5, PLOT_WIDTH - 24.0);
            let indent = if sign.is_empty() { 0.0 } else { 24.0 };
            let wide = indent + text_width(&name, 11.5);
            if x + wide > RIGHT && x > LEFT {
                (x, y) = (LEFT, y + 17.0);
            }
            self.out.push_str(&format!("<g transform='translate({x:.1} {y:.1})'>{sign}"));
            self.text(indent, 0.0, KEY, &name);
            self.out.push_str("</g>\n");
            x += wide + 18.0;
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(style: Line, points: Vec<Point>) -> Series {
        Series { name: "p95".into(), colour: Colour::Blue, style, points }
    }

    fn chart(series: Vec<Series>, limits: Vec<Limit>) -> Chart {
        let panel = Panel { title: "Latency".into(), unit: "ms".into(), series, limits };
        let (bands, marks) = (Vec::new(), Vec::new());
        let (title, subtitle) = ("run".to_owned(), String::new());
        Chart { title, subtitle, duration_s: 10.0, panels: vec![panel], bands, marks }
    }

    fn limit(value: f64) -> Limit {
        Limit { name: "abort".into(), value, colour: Colour::Red }
    }

    /// Path data of the only series: the one path that starts with a dot.
    fn data(svg: &str) -> &str {
        let from = svg.split("<path d='").find(|p| p.contains("h0"));
        from.and_then(|p| p.split('\'').next()).unwrap_or("")
    }

    #[test]
    fn every_text_is_escaped() {
        let evil = || "<b>&\"'\u{1}".to_owned();
        let mut c = chart(vec![series(Line::Solid, vec![(1.0, Some(1.0))])], vec![limit(2.0), limit(1e3)]);
        (c.title, c.subtitle) = (evil(), evil());
        c.bands.push(Band { from_s: 0.0, to_s: 9.0, name: evil() });
        c.bands.push(Band { from_s: 9.0, to_s: 9.1, name: evil() + "narrow" });
        c.marks.push(Mark { at_s: 5.0, label: evil() });
        for p in &mut c.panels {
            (p.title, p.unit) = (evil(), evil() + "long");
            p.series.iter_mut().for_each(|s| s.name = evil());
            p.limits.iter_mut().for_each(|l| l.name = evil());
        }
        let svg = c.svg();
        assert!(
            !svg.contains("<b>") && !svg.contains("&\"") && !svg.contains('"') && !svg.contains('\u{1}'),
            "{svg}"
        );
        assert!(svg.matches("&lt;b&gt;&amp;&quot;&#39;\u{fffd}").count() >= 12, "{svg}");
    }

    #[test]
    fn absent_data_breaks_the_line_and_is_hatched() {
        let points =
            vec![(0.0, Some(1.0)), (2.0, Some(2.0)), (4.0, None), (6.0, Some(2.0)), (8.0, Some(f64::NAN))];
        let svg = chart(vec![series(Line::Solid, points.clone())], vec![]).svg();
        assert_eq!((data(&svg).matches('M').count(), data(&svg).matches('L').count()), (2, 1), "{svg}");
        // From the last value to the next: 2 s to 6 s, 75 pixels a second; and from 6 s to the end at 8 s.
        assert!(svg.contains("<rect x='236.0'") && svg.contains("width='450.0'"), "{svg}");
        let step = chart(vec![series(Line::Step, points.clone())], vec![]).svg();
        assert!(data(&step).contains("H386.0M536.0"), "a step holds until the absence: {}", data(&step));
        assert!(step.contains("<rect x='386.0'") && step.contains("width='150.0'"), "{step}");
        let backwards = points.into_iter().rev().collect();
        assert_eq!(chart(vec![series(Line::Step, backwards)], vec![]).svg(), step, "order is by time");
    }

    #[test]
    fn a_limit_far_off_is_named_and_not_drawn() {
        let with = |v| chart(vec![series(Line::Solid, vec![(0.0, Some(10.0))])], vec![limit(v)]).svg();
        assert!(with(5_000.0).contains(">abort 5000 (off scale)<"));
        assert!(!with(5_000.0).contains("stroke-dasharray='6 4'"));
        assert!(with(200.0).contains("stroke-dasharray='6 4'") && !with(200.0).contains("off scale"));
        assert!(with(200.0).contains(">200 ms<"), "the scale includes the limit");
        let zeros =
            chart(vec![series(Line::Solid, vec![(0.0, Some(0.0))])], vec![limit(0.5), limit(50.0)]).svg();
        assert!(zeros.contains(">abort 0.5<") && zeros.contains(">abort 50 (off scale)<"), "{zeros}");
    }

    #[test]
    fn ticks_are_round() {
        for (high, last, step) in
            [(1.0, 1.0, 0.25), (0.3, 0.3, 0.1), (97.0, 100.0, 25.0), (1_234.0, 1_500.0, 500.0)]
        {
            let scale = Scale::of(&[vec![(0.0, Some(high))]], &[]);
            assert!(
                (scale.step - step).abs() < 1e-9 && (scale.high - last).abs() < 1e-9,
                "{high}: {}",
                scale.high
            );
            assert!(scale.low.abs() < 1e-9 && scale.ticks().len() <= 6, "{high}: {:?}", scale.ticks());
        }
        let labels = |span| time_ticks(span).into_iter().map(|t| time_text(t, span)).collect::<Vec<_>>();
        assert_eq!(labels(0.4).get(1).map(String::as_str), Some("0.05 s"));
        assert_eq!(labels(60.0), ["0 s", "10 s", "20 s", "30 s", "40 s", "50 s", "60 s"]);
        assert_eq!(labels(1_800.0), ["0 min", "5 min", "10 min", "15 min", "20 min", "25 min", "30 min"]);
        assert_eq!(labels(14_400.0).get(1).map(String::as_str), Some("0.5 h"));
        assert!(labels(1e7).len() <= 10);
        assert_eq!(
            [0.0, 0.5, 25.0, 1_234.0, 2e6, -0.00012].map(number),
            ["0", "0.5", "25", "1.23k", "2M", "-0.00012"]
        );
        assert_eq!(quantity(0.25, "ratio"), "25 %");
    }

    #[test]
    fn a_long_series_is_small_and_keeps_its_spike() {
        let spike = |i: u32| if i == 77_777 { 900.0 } else { f64::from(i % 7) };
        let points: Vec<Point> = (0..200_000).map(|i| (f64::from(i) / 20_000.0, Some(spike(i)))).collect();
        let kept = thin(&points, 10.0);
        assert!(kept.len() <= POINTS_MAX + 4 && kept.iter().any(|p| p.1 == Some(900.0)), "{}", kept.len());
        let svg = chart(vec![series(Line::Step, points.clone())], vec![]).svg();
        assert!(svg.len() < 40_000, "{}", svg.len());
        // A column with empty neighbours keeps its first and last point too, or the line would lean.
        let dense = (0..2_000).map(|i| (f64::from(i) / 10_000.0, Some(f64::from(i % 7))));
        let alone: [Point; 4] =
            [(5.0, Some(4.0)), (5.001, Some(1.0)), (5.002, Some(9.0)), (5.003, Some(5.0))];
        let kept = thin(&dense.chain(alone).collect::<Vec<_>>(), 10.0);
        assert!(kept.ends_with(&alone), "{kept:?}");
        // Every other point absent: the worst case for breaks and hatching.
        let holed = points.iter().enumerate().map(|(i, p)| (p.0, p.1.filter(|_| i % 2 == 0))).collect();
        assert!(chart(vec![series(Line::Solid, holed)], vec![]).svg().len() < 80_000);
    }

    #[test]
    fn nothing_to_draw_still_draws() {
        let never = f64::NAN;
        let mut c =
            chart(vec![series(Line::Solid, vec![(never, Some(1.0)), (1.0, Some(f64::INFINITY))])], vec![]);
        c.duration_s = never;
        c.bands.push(Band { from_s: never, to_s: 1.0, name: "hold".into() });
        c.marks.push(Mark { at_s: never, label: "stop".into() });
        c.panels.push(Panel {
            title: "empty".into(),
            unit: "ratio".into(),
            series: vec![],
            limits: vec![limit(never)],
        });
        let svg = c.svg();
        assert!(
            svg.contains(">no data<")
                && svg.contains(">100 %<")
                && !svg.contains("NaN")
                && !svg.contains("inf")
        );
        (c.duration_s, c.panels) = (0.0, vec![]);
        assert!(c.svg().starts_with("<svg") && c.svg().contains(">0.2 s<"), "{}", c.svg());
    }

    #[test]
    fn labels_that_would_collide_are_dropped_and_their_lines_kept() {
        let mut c = chart(vec![], vec![]);
        c.marks = [5.0, 5.1, 9.0].map(|at_s| Mark { at_s, label: format!("cut at {at_s}") }).to_vec();
        c.bands = vec![Band { from_s: 0.0, to_s: 0.1, name: "back_off".into() }];
        let svg = c.svg();
        assert!(svg.contains(">cut at 5</text>") && !svg.contains(">cut at 5.1</text>"), "{svg}");
        assert!(svg.contains(">cut at 9</text>") && svg.matches("<title>cut at").count() == 6, "{svg}");
        assert_eq!(
            svg.matches(">back_off</text>").count(),
            1,
            "too narrow for its name: in the legend below"
        );
        c.bands.push(Band { from_s: 1.0, to_s: 9.0, name: "back_off".into() });
        assert_eq!(c.svg().matches(">back_off</text>").count(), 1, "one band says it: no legend");
    }
}
