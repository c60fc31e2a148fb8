use std::{fs, path::Path};

use maud::{PreEscaped, html};

use super::{
    Plot, Series,
    plot::{FINE, HEIGHT, KEY, WIDTH, key_drawing},
};
use crate::{Error, Result};

const STYLE: &str = include_str!("plot.css");
/// What a page does in HTML, a file of its own does in SVG: ground, title, legend.
const FRAME: &str = "\
.ground { fill: var(--panel); }
.title { fill: var(--ink); font: 600 160px system-ui, sans-serif; }
.name { fill: var(--ink); font: 140px system-ui, sans-serif; }
.note { fill: var(--muted); }
";
const MARGIN: i32 = 14 * FINE;
const TITLE: i32 = 30 * FINE;
const ROW: i32 = 22 * FINE;
/// Width of a letter of the legend, on the safe side: the font is the reader's.
const LETTER: i32 = 8 * FINE;

impl Plot {
    /// The plot as an SVG file of its own, with title, legend and colours for light and dark ground.
    pub fn standalone(&self) -> String {
        let named: Vec<&Series> = self.series.iter().filter(|s| !s.name.is_empty()).collect();
        let (places, rows) = flow(&named);
        let (width, height) = (WIDTH + 2 * MARGIN, TITLE + HEIGHT + rows * ROW + 2 * MARGIN);
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {width} {height}")) width=(width / FINE) height=(height / FINE)
                role="img" aria-label=(format!("{}: {} against {}", self.title, self.y.label, self.x.label)) {
                style { (PreEscaped(STYLE)) (PreEscaped(FRAME)) }
                rect.ground width=(width) height=(height) rx=(6 * FINE) {}
                text.title x=(MARGIN) y=(MARGIN + 16 * FINE) { (self.title) }
                g transform=(format!("translate({MARGIN} {})", MARGIN + TITLE)) { (PreEscaped(self.drawing())) }
                @for (series, (x, row)) in named.iter().zip(places) {
                    g transform=(format!("translate({} {})", MARGIN + x, MARGIN + TITLE + HEIGHT + row * ROW + 6 * FINE)) {
                        (key_drawing(series))
                        text.name x=(KEY.0 + 6 * FINE) y=(11 * FINE) { (series.name) " " tspan.note { (series.note) } }
                    }
                }
            }
        };
        svg.into_string() + "\n"
    }
}

/// Places the entries of a legend in rows: the left edge and the row of each, and the number of rows.
fn flow(series: &[&Series]) -> (Vec<(i32, i32)>, i32) {
    let (mut x, mut row) = (0, 0);
    let places = series.iter().map(|s| {
        let letters = (s.name.chars().count() + s.note.chars().count() + 1) as i32;
        let width = KEY.0 + 6 * FINE + letters * LETTER;
        if x > 0 && x + width > WIDTH {
            (x, row) = (0, row + 1);
        }
        let place = (x, row);
        x += width + 10 * FINE;
        place
    });
    let places = places.collect::<Vec<_>>();
    let rows = places.last().map_or(0, |(_, row)| row + 1);
    (places, rows)
}

/// Writes each plot into the folder, as `validation-loss-against-tokens.svg`.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_plots(folder: &Path, plots: &[Plot]) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::write(folder))?;
    for plot in plots {
        let words = plot.title.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let path = folder.join(words.collect::<Vec<_>>().join("-").to_lowercase() + ".svg");
        fs::write(&path, plot.standalone()).map_err(Error::write(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Axis, Quantity};

    fn plot(names: &[&str]) -> Plot {
        let mut plot =
            Plot::new("Loss against tokens, A & B", Axis::linear("tokens", Quantity::Count), Axis::linear("loss", Quantity::Plain));
        let series = |(style, name): (usize, &&str)| Series {
            name: (*name).into(),
            note: "1.23".into(),
            style,
            points: vec![(0.0, 2.0), (10.0, 1.0)],
            ..Series::default()
        };
        plot.series = names.iter().enumerate().map(series).collect();
        plot
    }

    #[test]
    fn a_file_has_its_own_title_legend_and_colours() {
        let svg = plot(&["softmax", "a < b"]).standalone();
        assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"));
        for part in ["Loss against tokens, A &amp; B", "a &lt; b", "prefers-color-scheme: dark", "line s1", "mark s0"] {
            assert!(svg.contains(part), "{part} is missing");
        }
    }

    #[test]
    fn a_long_legend_takes_more_rows() {
        let height = |names: &[&str]| -> i32 {
            let svg = plot(names).standalone();
            svg.split_once(" height=\"").unwrap().1.split_once('"').unwrap().0.parse().unwrap()
        };
        assert!(height(&["a rather long name"; 6]) > height(&["a rather long name"; 2]));
    }

    #[test]
    fn files_are_named_as_their_titles() {
        let folder = tempfile::tempdir().unwrap();
        write_plots(&folder.path().join("plots"), &[plot(&["x"])]).unwrap();
        assert!(folder.path().join("plots/loss-against-tokens-a-b.svg").is_file());
    }
}
