use maud::{Markup, PreEscaped, html};
use plotters::{
    backend::SVGBackend,
    chart::{ChartBuilder, ChartContext},
    coord::{Shift, cartesian::Cartesian2d},
    drawing::{DrawingArea, IntoDrawingArea},
    element::{PathElement, Polygon, Text},
    style::{
        Color, IntoFont, TRANSPARENT, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    Axis,
    axis::Coordinate,
    palette::{Role, STYLES, classes, marker},
};

/// A line plot of several series over one pair of axes.
///
/// It becomes an SVG without colours of its own: the [page](super::page) gives each style a colour, a dash and a marker, for light and
/// dark ground and for print.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// Title, above the plot.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// Guide lines `y ∝ x^p` for plots with two logarithmic axes: p and the name beside the line.
    pub guides: Vec<(f64, String)>,
    /// A sentence below the plot.
    pub caption: String,
}

/// One line of a [`Plot`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Name in the legend; a series without a name is alone, and needs no markers.
    pub name: String,
    /// What the legend says after the name, such as a final value.
    pub note: String,
    /// Number of the style, from 0: the same thing has the same style in all plots of a page.
    pub style: usize,
    /// The points, from left to right. Those that an axis cannot show are left out.
    pub points: Vec<(f64, f64)>,
    /// Lowest and highest value at each point, drawn as a band; empty = none.
    pub band: Vec<(f64, f64)>,
    /// Whether the line is thin and without markers: the background of another one.
    pub faint: bool,
}

/// Units of the drawing per pixel: `plotters` draws on whole numbers, which would show as steps in a curve.
pub(super) const FINE: i32 = 10;
pub(super) const WIDTH: i32 = 460 * FINE;
pub(super) const HEIGHT: i32 = 300 * FINE;
/// More markers than this on one line would hide it.
const MARKERS: usize = 12;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Coordinate, Coordinate>>;
/// Drawing into a string cannot fail: the backend's errors are those of files.
const INTO_STRING: &str = "drawing into a string succeeds";

impl Plot {
    /// A plot without series.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Self { title: title.into(), x, y, series: Vec::new(), guides: Vec::new(), caption: String::new() }
    }

    /// The plot with title, legend and caption, as an element of a [page](super::page).
    pub fn figure(&self) -> Markup {
        html! {
            figure {
                h3 { (self.title) }
                (PreEscaped(self.svg()))
                ul.legend {
                    @for series in self.series.iter().filter(|s| !s.name.is_empty()) {
                        li { (key(series)) " " (series.name) @if !series.note.is_empty() { " " span.note { (series.note) } } }
                    }
                }
                @if !self.caption.is_empty() { figcaption { (self.caption) } }
            }
        }
    }

    /// The drawing alone. Its elements carry classes, which the page's style sheet colours.
    ///
    /// # Panics
    /// Never: drawing into a string succeeds.
    pub fn svg(&self) -> String {
        let label = format!("{}: {} against {}", self.title, self.y.label, self.x.label);
        let svg = html! {
            svg.plot viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) { (PreEscaped(self.drawing())) }
        };
        svg.into_string()
    }

    /// The elements of the drawing.
    pub(super) fn drawing(&self) -> String {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, HEIGHT as u32)).into_drawing_area();
            self.draw(&root);
            root.present().expect(INTO_STRING);
        }
        // The element's own head has a size in pixels; another one is put around what is in it.
        let drawing = svg.split_once('>').map_or("", |(_, rest)| rest).trim_end().trim_end_matches("</svg>");
        classes(drawing)
    }

    fn visible<'s>(&'s self, series: &'s Series) -> impl Iterator<Item = (usize, (f64, f64))> + 's {
        let shown = |(_, (x, y)): &(usize, (f64, f64))| self.x.shows(*x) && self.y.shows(*y);
        series.points.iter().copied().enumerate().filter(shown)
    }

    fn draw(&self, root: &Area<'_>) {
        let points = || self.series.iter().flat_map(|s| self.visible(s).map(|(_, p)| p));
        let bands = self.series.iter().flat_map(|s| s.band.iter().flat_map(|(low, high)| [*low, *high]));
        let x = self.x.coordinate(points().map(|p| p.0), 6);
        let y = self.y.coordinate(points().map(|p| p.1).chain(bands), 6);
        let mut chart = ChartBuilder::on(root)
            .margin_top(30 * FINE)
            .margin_right(18 * FINE)
            .margin_bottom(24 * FINE)
            .x_label_area_size(22 * FINE)
            .y_label_area_size(70 * FINE)
            .build_cartesian_2d(x, y)
            .expect(INTO_STRING);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(Role::Grid.color())
            .axis_style(Role::Axis.color())
            .label_style(text(HPos::Left, VPos::Center))
            .set_all_tick_mark_size(4 * FINE)
            .draw()
            .expect(INTO_STRING);
        let corner = |label: &str, at, h, v| root.draw(&Text::new(label.to_owned(), at, text(h, v))).expect(INTO_STRING);
        corner(&self.y.label, (4 * FINE, 6 * FINE), HPos::Left, VPos::Top);
        corner(&self.x.label, (WIDTH - 18 * FINE, HEIGHT - 2 * FINE), HPos::Right, VPos::Bottom);
        self.guides.iter().for_each(|(power, name)| Self::draw_guide(&mut chart, *power, name));
        // Bands below all lines, faint lines below the others.
        self.series.iter().filter(|s| !s.band.is_empty()).for_each(|s| self.draw_band(&mut chart, s));
        for faint in [true, false] {
            self.series.iter().filter(|s| s.faint == faint).for_each(|s| self.draw_line(&mut chart, root, s));
        }
    }

    fn draw_line(&self, chart: &mut Chart<'_, '_>, root: &Area<'_>, series: &Series) {
        let points: Vec<_> = self.visible(series).map(|(_, p)| p).collect();
        let role = if series.faint { Role::Faint(series.style) } else { Role::Line(series.style) };
        chart.draw_series([PathElement::new(points.clone(), role.color())]).expect(INTO_STRING);
        if series.faint || series.name.is_empty() {
            return;
        }
        // Counted from the right, so that the last point has one.
        for point in points.iter().rev().step_by(points.len().div_ceil(MARKERS).max(1)) {
            let corners = marker(series.style, chart.backend_coord(point), 4 * FINE);
            root.draw(&Polygon::new(corners, Role::Mark(series.style).color())).expect(INTO_STRING);
        }
    }

    fn draw_band(&self, chart: &mut Chart<'_, '_>, series: &Series) {
        let edges: Vec<_> = self
            .visible(series)
            .filter_map(|(i, (x, _))| series.band.get(i).map(|(low, high)| (x, *low, *high)))
            .filter(|(_, low, high)| self.y.shows(*low) && self.y.shows(*high))
            .collect();
        let outline = edges.iter().map(|(x, _, high)| (*x, *high)).chain(edges.iter().rev().map(|(x, low, _)| (*x, *low)));
        chart.draw_series([Polygon::new(outline.collect::<Vec<_>>(), Role::Band(series.style).color())]).expect(INTO_STRING);
    }

    /// A line from the lower left corner as far as the axes reach.
    fn draw_guide(chart: &mut Chart<'_, '_>, power: f64, name: &str) {
        let (x, y) = (chart.x_range(), chart.y_range());
        let height = |at: f64| y.start * (at / x.start).powf(power);
        let end = x.end.min(x.start * (y.end / y.start).powf(1.0 / power));
        chart.draw_series([PathElement::new(vec![(x.start, y.start), (end, height(end))], Role::Guide.color())]).expect(INTO_STRING);
        // Below the line, near its end.
        let at = x.start * (end / x.start).powf(0.86);
        chart.draw_series([Text::new(name.to_owned(), (at, height(at)), text(HPos::Left, VPos::Top))]).expect(INTO_STRING);
    }
}

fn text<'a>(h: HPos, v: VPos) -> TextStyle<'a> {
    let style = TextStyle::from(("sans-serif", 13 * FINE).into_font()).pos(Pos::new(h, v));
    TextStyle { color: Role::Text.color().to_backend_color(), ..style }
}

/// Size of the sample of a series in a legend.
pub(super) const KEY: (i32, i32) = (34 * FINE, 12 * FINE);

/// The sample of a series in the legend: a piece of line with its marker.
fn key(series: &Series) -> Markup {
    html! { svg.key viewBox=(format!("0 0 {} {}", KEY.0, KEY.1)) aria-hidden="true" { (key_drawing(series)) } }
}

/// The elements of [`key`].
pub(super) fn key_drawing(series: &Series) -> Markup {
    let (width, height) = KEY;
    let style = series.style % STYLES;
    let line = if series.faint { "faint" } else { "line" };
    let corners: Vec<_> = marker(style, (width / 2, height / 2), 4 * FINE).iter().map(|(x, y)| format!("{x},{y}")).collect();
    html! {
        line class=(format!("{line} s{style}")) x1="0" x2=(width) y1=(height / 2) y2=(height / 2) {}
        @if !series.faint { polygon class=(format!("mark s{style}")) points=(corners.join(" ")) {} }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Quantity;

    fn plot() -> Plot {
        let curve = |name: &str, style: usize, power: f64| Series {
            name: name.into(),
            note: format!("T^{power}"),
            style,
            points: (0..7).map(|i| f64::from(512 << i)).map(|t| (t, 1e-6 * (1.0 + style as f64 / 3.0) * t.powf(power))).collect(),
            ..Series::default()
        };
        let mut plot = Plot::new("Time", Axis::log2("tokens", Quantity::Length), Axis::log("forward and backward", Quantity::Seconds));
        plot.series = (0..8).map(|i| curve(&format!("mixer {i}"), i, if i == 0 { 1.9 } else { 1.0 })).collect();
        plot.guides = vec![(1.0, "∝ T".into()), (2.0, "∝ T²".into())];
        plot
    }

    #[test]
    fn each_style_differs_from_the_others_in_class_and_marker() {
        let svg = plot().svg();
        let markers: std::collections::BTreeSet<_> = (0..STYLES).map(|s| marker(s, (0, 0), 40)).collect();
        assert_eq!(markers.len(), STYLES);
        for style in 0..STYLES {
            for class in [format!("\"line s{style}\""), format!("\"mark s{style}\"")] {
                assert!(svg.contains(&class), "no element of class {class}");
            }
        }
    }

    #[test]
    fn a_drawing_has_no_colours_of_its_own() {
        let svg = plot().svg();
        assert!(!svg.contains("=\"#"), "a colour stayed in {svg}");
        assert!([512, 32].iter().all(|tick| svg.contains(&format!("\n{tick}"))) && svg.contains(" ms\n"), "ticks are missing");
    }

    #[test]
    fn values_that_an_axis_cannot_show_are_left_out() {
        let mut plot = plot();
        plot.series.truncate(1);
        plot.series[0].points = vec![(512.0, f64::NAN), (0.0, 1.0), (1024.0, 1.0), (2048.0, 2.0)];
        plot.series[0].band = vec![(f64::NAN, 1.0), (1.0, 1.0), (0.5, 1.5), (1.5, 2.5)];
        let svg = plot.svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(svg.matches("class=\"mark s0\"").count(), 2);
    }

    #[test]
    fn names_are_escaped() {
        let mut plot = plot();
        plot.x.label = "a < b & \"c\"".into();
        assert!(plot.svg().contains("a &lt; b &amp; &quot;c&quot;"));
    }
}
