use maud::{Markup, html};
use regard_train::report::{Axis, Plot, Quantity, Series, facts, page, plots};

use super::{Bench, BenchRow, Direction};

/// The measurements as a page.
pub fn html(bench: &Bench) -> String {
    let c = &bench.config;
    let plural = |count: usize, name: &str| format!("{count} {name}{}", if count == 1 { "" } else { "s" });
    let lead = format!("{}, {} of width {}, {}, causal.", plural(c.batch, "sequence"), plural(c.heads, "head"), c.width, c.dtype);
    let body = html! {
        @for direction in &c.directions {
            h2 { @match direction { Direction::Forward => "Forward", Direction::Training => "Forward and backward" } }
            (plots(&drawn(bench, *direction)))
        }
        h2 { "The numbers" }
        (table(bench))
        p.small {
            "“Moves” counts each input, output and gradient once per pass; its share is of the copy bandwidth. Operations are those that the definition needs; their share is of the matrix product. Exponents are fitted by least squares on both logarithms, from 1k tokens where there are two such lengths."
        }
        h2 { "Machine" }
        (facts(&[bench.machine.facts(), bench.rates.facts()].concat()))
    };
    page("Attention operations over length", &lead, &body)
}

fn drawn(bench: &Bench, direction: Direction) -> Vec<Plot> {
    let series = |value: &dyn Fn(&BenchRow) -> Option<f64>, noted: bool| -> Vec<Series> {
        let one = |(style, mixer): (usize, &String)| {
            let growth = bench.growth.iter().find(|g| g.mixer == *mixer && g.direction == direction);
            let rows = bench.rows.iter().filter(|r| r.mixer == *mixer && r.direction == direction);
            Series {
                name: mixer.clone(),
                note: growth.and_then(|g| g.exponent).filter(|_| noted).map_or(String::new(), |p| format!("T^{p:.2}")),
                style,
                points: rows.filter_map(|r| value(r).map(|v| (r.tokens as f64, v))).collect(),
                ..Series::default()
            }
        };
        bench.config.mixers.iter().enumerate().map(one).collect()
    };
    let length = || Axis::log2("sequence length T (tokens)", Quantity::Length);
    let mut time = Plot::new("Time", length(), Axis::log("median", Quantity::Seconds));
    time.series = series(&|r| Some(r.seconds), true);
    time.guides = vec![(1.0, "∝ T".into()), (2.0, "∝ T²".into())];
    let mut share = Plot::new("Share of the matrix product", length(), Axis::log("%", Quantity::Plain));
    share.series = series(&|r| Some(100.0 * r.matmul_share), false);
    let mut memory = Plot::new("Memory beyond the inputs", length(), Axis::log2("peak", Quantity::Bytes));
    memory.series = series(&|r| r.peak_bytes.map(|b| b as f64), false);
    [time, share, memory].into_iter().filter(|p| p.series.iter().any(|s| !s.points.is_empty())).collect()
}

fn table(bench: &Bench) -> Markup {
    let table = bench.table();
    html! {
        div.wide { table {
            thead { tr { @for column in &table.columns { th scope="col" { (column) } } } }
            tbody { @for row in &table.rows { tr { @for cell in row { td { (cell) } } } } }
        } }
    }
}
