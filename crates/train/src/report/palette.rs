use plotters::style::RGBColor;

/// What an element of a plot is. Each role is drawn in colours of its own that no theme uses; [`classes`] turns them into classes,
/// so that the page's style sheet decides how they look on light and dark ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Text,
    Grid,
    Axis,
    Guide,
    Line(usize),
    Faint(usize),
    Mark(usize),
    Band(usize),
}

/// Number of styles (colour, dash and marker together) before they repeat.
pub(super) const STYLES: usize = 8;

impl Role {
    pub(super) fn color(self) -> RGBColor {
        let (kind, style) = match self {
            Self::Text => (1, 0),
            Self::Grid => (2, 0),
            Self::Axis => (3, 0),
            Self::Guide => (4, 0),
            Self::Line(style) => (5, style % STYLES),
            Self::Faint(style) => (8, style % STYLES),
            Self::Mark(style) => (6, style % STYLES),
            Self::Band(style) => (7, style % STYLES),
        };
        RGBColor(kind, style as u8, 0xA5)
    }

    fn class(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Grid => "grid".into(),
            Self::Axis => "axis".into(),
            Self::Guide => "guide".into(),
            Self::Line(style) => format!("line s{}", style % STYLES),
            Self::Faint(style) => format!("faint s{}", style % STYLES),
            Self::Mark(style) => format!("mark s{}", style % STYLES),
            Self::Band(style) => format!("band s{}", style % STYLES),
        }
    }
}

/// Replaces the colours of the roles in an SVG text by classes and drops the attributes that the style sheet sets.
pub(super) fn classes(svg: &str) -> String {
    let mut svg = svg.to_owned();
    let series = (0..STYLES).flat_map(|s| [Role::Line(s), Role::Faint(s), Role::Mark(s), Role::Band(s)]);
    for role in [Role::Text, Role::Grid, Role::Axis, Role::Guide].into_iter().chain(series) {
        let RGBColor(r, g, b) = role.color();
        for attribute in ["stroke", "fill"] {
            svg = svg.replace(&format!("{attribute}=\"#{r:02X}{g:02X}{b:02X}\""), &format!("class=\"{}\"", role.class()));
        }
    }
    for noise in [" opacity=\"1\"", " fill=\"none\"", " stroke=\"none\"", " stroke-width=\"1\"", " font-family=\"sans-serif\""] {
        svg = svg.replace(noise, "");
    }
    svg
}

/// The corners of the marker of a style around a centre, `radius` wide.
pub(super) fn marker(style: usize, (x, y): (i32, i32), radius: i32) -> Vec<(i32, i32)> {
    let at = |share: f64, angle: f64| {
        let r = f64::from(radius) * share;
        (x + (r * angle.to_radians().sin()).round() as i32, y - (r * angle.to_radians().cos()).round() as i32)
    };
    let polygon =
        |corners: u32, share: f64, turn: f64| (0..corners).map(|i| at(share, turn + 360.0 * f64::from(i) / f64::from(corners))).collect();
    let star = |points: u32, inner: f64, turn: f64| {
        let step = 180.0 / f64::from(points);
        (0..2 * points).map(|i| at(if i % 2 == 0 { 1.35 } else { inner }, turn + step * f64::from(i))).collect()
    };
    match style % STYLES {
        0 => polygon(16, 1.0, 0.0),  // disc
        1 => polygon(4, 1.2, 45.0),  // square
        2 => polygon(3, 1.4, 0.0),   // triangle
        3 => polygon(4, 1.35, 0.0),  // diamond
        4 => star(4, 0.5, 45.0),     // cross
        5 => polygon(3, 1.4, 180.0), // triangle pointing down
        6 => star(5, 0.6, 0.0),      // star
        _ => polygon(6, 1.15, 0.0),  // hexagon
    }
}
