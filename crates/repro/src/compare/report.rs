use std::path::Path;

use maud::{Markup, html};
use regard_train::{
    EvalRecord, Record, Run,
    report::{Axis, Plot, Quantity, Series, code, facts, folded, page, plots, sample},
};

use super::{CandidateResult, CompareConfig, Comparison, ImageFacts, Scaling};
use crate::Result;

/// The page `report.html` of a comparison in the folder `out`, whose runs hold the curves.
///
/// # Errors
/// If the metrics of a run cannot be read.
pub fn report(comparison: &Comparison, config: &CompareConfig, out: &Path) -> Result<String> {
    let quality = quality(comparison, &curves(comparison, out)?);
    let scaling = comparison.scaling.as_ref();
    let body = html! {
        (headline(comparison))
        h2 { "Quality" }
        (plots(&quality))
        @if let Some(scaling) = scaling.filter(|s| s.curves.iter().any(|c| !c.points.is_empty())) {
            h2 { "Cost against " (if scaling.patch.is_some() { "size" } else { "length" }) }
            (cost_lead(scaling))
            (plots(&cost(scaling)))
            (cost_table(scaling))
        }
        (samples(comparison))
        h2 { "How it was done" }
        (facts(&setting(comparison, config)))
        h3 { "Machine" }
        (facts(&comparison.machine.facts()))
        @if let Some(command) = &comparison.command { h3 { "Command" } (code(command)) }
        (folded("The whole configuration (compare.toml)", &code(&config.to_toml()?)))
    };
    Ok(page(&title(comparison), &lead(comparison), &body))
}

/// The plots of the page as files in a folder, for other pages.
///
/// # Errors
/// If the metrics of a run cannot be read, or the folder cannot be written.
pub(super) fn write_plots(comparison: &Comparison, out: &Path, folder: &Path) -> Result<()> {
    let mut plots = quality(comparison, &curves(comparison, out)?);
    plots.extend(comparison.scaling.iter().flat_map(cost));
    Ok(regard_train::report::write_plots(folder, &plots)?)
}

fn title(c: &Comparison) -> String {
    let names: Vec<_> = c.candidates.iter().map(|c| c.mixer.as_str()).collect();
    let names = match names.as_slice() {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        other => other.join(""),
    };
    match &c.data {
        Some(data) => format!("{names} on {}", data.rsplit('/').find(|part| !part.is_empty()).unwrap_or(data)),
        None => format!("{names} on {}", task_name(&c.task)),
    }
}

fn task_name(task: &str) -> &str {
    match task {
        "lm" => "language modelling",
        "recall" => "associative recall",
        "copy" => "copying by position",
        "listops" => "nested lists",
        "classify" => "telling images apart",
        "series" => "telling series apart",
        "forecast" => "forecasting",
        "control" => "offline control of a point mass",
        other => other,
    }
}

fn lead(c: &Comparison) -> String {
    let params = c.candidates.first().map_or(0, |c| c.params);
    let seeds = c.candidates.iter().map(|c| c.seeds.len()).max().unwrap_or(0);
    let (per, what) = if c.image.is_some() { (c.context.max(1), "images") } else { (1, "tokens") };
    format!(
        "{} with {} of about {} parameters each: the same data in the same order, the same schedule, {} steps of {} {what}, {seeds} {}.{}",
        capital(task_name(&c.task)),
        if c.candidates.len() == 1 { "a model".to_owned() } else { format!("{} models", c.candidates.len()) },
        Quantity::Count.text(params as f64, 3),
        c.steps,
        Quantity::Count.text(c.tokens as f64 / (c.steps.max(1) * per) as f64, 3),
        if seeds == 1 { "seed" } else { "seeds" },
        if c.complete { "" } else { " Not finished yet: this page shows what there is." },
    )
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// A column of the headline table: name, unit, value of a candidate, whether less is better, text.
struct Column {
    name: &'static str,
    unit: &'static str,
    value: fn(&CandidateResult) -> Option<f64>,
    /// −1: less is better; 1: more is; 0: neither.
    better: i8,
    text: fn(f64) -> String,
    /// Lowest and highest over the seeds.
    range: fn(&CandidateResult) -> Option<[f64; 2]>,
}

fn columns(c: &Comparison) -> Vec<Column> {
    let plain = |name, unit, value, better, text| Column { name, unit, value, better, text, range: |_| None };
    let mut columns = vec![plain("Parameters", "", |c| Some(c.params as f64), 0, |v| Quantity::Count.text(v, 4))];
    if c.by_accuracy() {
        let percent = |v: f64| format!("{:.1} %", 100.0 * v);
        columns.push(Column { range: |c| c.accuracy_range, ..plain("Accuracy", "of answers", |c| c.accuracy, 1, percent) });
    }
    columns
        .push(Column { range: |c| c.val_loss_range, ..plain("Validation loss", c.loss_unit(), |c| c.val_loss, -1, |v| format!("{v:.3}")) });
    columns.push(plain("Mean absolute error", "", |c| c.mae, -1, |v| format!("{v:.4}")));
    if !c.by_accuracy() {
        columns.push(plain("Perplexity", "per token", |c| c.perplexity, -1, |v| Quantity::Plain.text(v, 4)));
        columns.push(plain("Bits per byte", "of text", |c| c.bits_per_byte, -1, |v| format!("{v:.3}")));
    }
    columns.push(plain("Step", "training", |c| c.step_ms.map(|ms| ms / 1e3), -1, |v| Quantity::Seconds.text(v, 3)));
    columns.push(plain("Tokens/s", "training", |c| c.tokens_per_s, 1, |v| Quantity::Count.text(v, 3)));
    columns.push(plain("Peak memory", "training", |c| c.peak_bytes.map(|b| b as f64), -1, |v| Quantity::Bytes.text(v, 3)));
    columns.push(plain("State", "after 1k tokens", |c| c.state_bytes.last().map(|s| s.bytes as f64), -1, |v| Quantity::Bytes.text(v, 3)));
    columns.retain(|column| c.candidates.iter().any(|c| (column.value)(c).is_some()));
    columns
}

fn headline(c: &Comparison) -> Markup {
    let columns = columns(c);
    let best: Vec<Option<f64>> = columns
        .iter()
        .map(|column| {
            let values = c.candidates.iter().filter_map(column.value);
            values.max_by(|a, b| (a * f64::from(column.better)).total_cmp(&(b * f64::from(column.better)))).filter(|_| column.better != 0)
        })
        .collect();
    let alone = c.candidates.len() == 1;
    let exponents: Vec<_> = c.candidates.iter().filter_map(|r| c.exponents(&r.mixer)[0]).collect();
    html! {
        div.wide { table.headline {
            thead { tr {
                th scope="col" { "Mixer" }
                @for column in &columns { th scope="col" { (column.name) span.unit { (column.unit) } } }
                @if !exponents.is_empty() { th scope="col" { "Time" span.unit { "growth" } } }
            } }
            tbody { @for candidate in c.ranking() { tr {
                td { (candidate.mixer) @if let Some(message) = &candidate.failed { span.spread.failed { "failed: " (message) } } }
                @for (column, best) in columns.iter().zip(&best) {
                    @let value = (column.value)(candidate);
                    // What reads the same as the best is as good.
                    @let is_best = !alone && value.zip(*best).is_some_and(|(v, b)| (column.text)(v) == (column.text)(b));
                    td.best[is_best] data-label=(column.name) {
                        span.value {
                            (value.map_or("–".into(), column.text))
                            @if let Some([low, high]) = (column.range)(candidate).filter(|_| candidate.seeds.len() > 1) {
                                span.spread { ((column.text)(low)) "…" ((column.text)(high)) }
                            }
                        }
                    }
                }
                @if !exponents.is_empty() {
                    td data-label="Time" { span.value { @match c.exponents(&candidate.mixer)[0] { Some(p) => (power(c.image.is_some(), p)), None => "–" } } }
                }
            } } }
        } }
        p.small {
            "Best first. The best value of a column is marked"
            @if c.candidates.iter().any(|c| c.seeds.len() > 1) { "; under a mean stand the lowest and the highest of the seeds" }
            "."
            @if c.candidates.iter().any(|c| !c.state_bytes.is_empty()) { " The state is what decoding keeps per sequence." }
            @if c.image.is_some() { " Tokens are the patches of images." }
        }
    }
}

/// The length T, or the side of images, with its exponent raised.
fn power(images: bool, p: f64) -> Markup {
    html! { "∝ " (if images { "side" } else { "T" }) sup { (format!("{p:.2}")) } }
}

/// The evaluations of a candidate's runs.
struct Curves {
    style: usize,
    name: String,
    runs: Vec<Vec<EvalRecord>>,
}

fn curves(c: &Comparison, out: &Path) -> Result<Vec<Curves>> {
    let evaluations = |run: &str| -> Result<Vec<EvalRecord>> {
        let dir = out.join(run);
        if !dir.join("config.toml").exists() {
            return Ok(Vec::new());
        }
        let records = Run::open(&dir)?.metrics()?;
        Ok(records.into_iter().filter_map(|r| if let Record::Eval(record) = r { Some(record) } else { None }).collect())
    };
    c.candidates
        .iter()
        .enumerate()
        .map(|(style, candidate)| {
            let runs = candidate.seeds.iter().map(|seed| evaluations(&seed.run)).collect::<Result<_>>()?;
            Ok(Curves { style, name: candidate.mixer.clone(), runs })
        })
        .collect()
}

impl Curves {
    /// Mean and range over the seeds, at the evaluations that all of them have.
    fn series(&self, x: fn(&EvalRecord) -> f64, y: fn(&EvalRecord) -> Option<f64>) -> Series {
        let runs: Vec<_> = self.runs.iter().filter(|r| !r.is_empty()).collect();
        let length = runs.iter().map(|r| r.len()).min().unwrap_or(0);
        let mut series = Series { name: self.name.clone(), style: self.style, ..Series::default() };
        for i in 0..length {
            let ys: Vec<f64> = runs.iter().filter_map(|r| y(&r[i])).collect();
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let xs: Vec<f64> = runs.iter().map(|r| x(&r[i])).collect();
            series.points.push((mean(&xs), mean(&ys)));
            if runs.len() > 1 {
                series.band.push(ys.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), y| (l.min(*y), h.max(*y))));
            }
        }
        series
    }
}

fn quality(c: &Comparison, curves: &[Curves]) -> Vec<Plot> {
    let tokens = || Axis::linear("training tokens", Quantity::Count).zero();
    let seconds = || Axis::linear("training time", Quantity::Seconds).zero();
    let (what, y): (_, fn(&EvalRecord) -> Option<f64>) = if c.by_accuracy() {
        ("accuracy (%)".to_owned(), |e| e.accuracy.map(|a| 100.0 * a))
    } else {
        (format!("validation loss ({})", c.loss_unit()), |e| Some(e.loss))
    };
    let name = if c.by_accuracy() { "Accuracy" } else { "Validation loss" };
    let plot = |against: &str, x: Axis, of: fn(&EvalRecord) -> f64| {
        let mut plot = Plot::new(format!("{name} against {against}"), x, Axis::linear(what.clone(), Quantity::Plain));
        plot.series = curves.iter().map(|c| c.series(of, y)).collect();
        for series in &mut plot.series {
            series.note = series.points.last().map_or(String::new(), |(_, y)| Quantity::Plain.text(*y, 4));
        }
        if curves.iter().any(|c| c.runs.len() > 1) {
            plot.caption = "Lines are means, bands the range over the seeds.".into();
        }
        plot
    };
    vec![plot("tokens", tokens(), |e| e.tokens as f64), plot("time", seconds(), |e| e.seconds)]
}

fn cost_lead(s: &Scaling) -> Markup {
    let to = s.curves.iter().filter(|c| c.time_exponent.is_some()).filter_map(|c| c.fit_to).max();
    let (what, unit) = if s.patch.is_some() { ("image", "pixels") } else { ("sequence", "tokens") };
    html! {
        p {
            "One mixer layer of width " (s.d_model) " with " (s.heads) @if s.heads == 1 { " head" } @else { " heads" }
            ", alone, on " (s.batch) " " (what) @if s.batch != 1 { "s" }
            @if let Some(patch) = s.patch { ", one token for each " (patch) " × " (patch) " pixels" }
            ": forward and backward. A curve ends where its next point did not fit into the time."
            @if s.patch.is_some() && s.curves.iter().any(|c| c.mixer.contains("conv") || c.mixer.contains("resnet")) {
                " Of convolutions it is the whole block, which has no channel mixer."
            }
            @if let Some(to) = to {
                " Exponents are fitted by least squares on both logarithms, from "
                (Quantity::Length.text(s.fit_from as f64, 3)) " " (unit) " to " (Quantity::Length.text(to as f64, 3))
                ", or as far as a curve goes."
            }
        }
    }
}

fn cost(s: &Scaling) -> Vec<Plot> {
    let images = s.patch.is_some();
    let symbol = if images { "side" } else { "T" };
    let series = |value: fn(&super::Point) -> Option<f64>, exponent: fn(&super::Curve) -> Option<f64>| -> Vec<Series> {
        let one = |(style, curve): (usize, &super::Curve)| Series {
            name: curve.mixer.clone(),
            note: exponent(curve).map_or(String::new(), |p| format!("{symbol}^{p:.2}")),
            style,
            points: curve.points.iter().filter_map(|p| value(p).map(|v| (p.at() as f64, v))).collect(),
            ..Series::default()
        };
        s.curves.iter().enumerate().map(one).collect()
    };
    let (against, label) = if images { ("size", "side of an image (pixels)") } else { ("length", "sequence length T (tokens)") };
    let length = || Axis::log2(label, Quantity::Length);
    // Linear in the tokens is quadratic in the side.
    let (linear, quadratic) = if images {
        ((2.0, "∝ side²".to_owned()), (4.0, "∝ side⁴".into()))
    } else {
        ((1.0, "∝ T".to_owned()), (2.0, "∝ T²".into()))
    };
    let mut time = Plot::new(format!("Time against {against}"), length(), Axis::log("forward and backward", Quantity::Seconds));
    time.series = series(|p| Some(p.seconds), |c| c.time_exponent);
    time.guides = vec![linear.clone(), quadratic];
    let mut memory = Plot::new(format!("Memory against {against}"), length(), Axis::log2("peak, forward and backward", Quantity::Bytes));
    memory.series = series(|p| p.peak_bytes.map(|b| b as f64), |c| c.memory_exponent);
    memory.guides = vec![linear];
    let mut state = Plot::new("Decoding state against length", length(), Axis::log2("bytes per sequence", Quantity::Bytes));
    state.series = series(|p| Some(p.state_bytes as f64).filter(|bytes| *bytes > 0.0), |_| None);
    state.caption = "What one layer keeps of the tokens so far to produce the next.".into();
    let plots = [time, memory, state];
    plots.into_iter().filter(|p| p.series.iter().any(|s| !s.points.is_empty())).collect()
}

fn cost_table(s: &Scaling) -> Markup {
    let mut lengths: Vec<usize> = s.curves.iter().flat_map(|c| c.points.iter().map(super::Point::at)).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let table = html! {
        div.wide { table {
            thead { tr {
                th scope="col" { "Mixer" }
                @for length in &lengths { th scope="col" { (Quantity::Length.text(*length as f64, 3)) } }
                th scope="col" { "Growth" span.unit { "of time" } }
                th scope="col" { "Growth" span.unit { "of memory" } }
            } }
            tbody { @for curve in &s.curves { tr {
                td { (curve.mixer) }
                @for length in &lengths {
                    @let point = curve.points.iter().find(|p| p.at() == *length);
                    td { @if let Some(point) = point {
                        (Quantity::Seconds.text(point.seconds, 3))
                        @if let Some(bytes) = point.peak_bytes { span.spread { (Quantity::Bytes.text(bytes as f64, 3)) } }
                    } @else { "–" } }
                }
                @for exponent in [curve.time_exponent, curve.memory_exponent] {
                    td { @match exponent { Some(p) => (power(s.patch.is_some(), p)), None => "–" } }
                }
            } } }
        } }
    };
    folded("The numbers", &table)
}

fn samples(c: &Comparison) -> Markup {
    let written: Vec<_> = c.candidates.iter().filter_map(|r| r.sample.as_ref().map(|s| (r, s))).collect();
    html! {
        @if !written.is_empty() {
            h2 { "Samples" }
            p.small { "What each model writes after the same beginning, which is set in grey." }
            div.samples { @for (result, text) in written { (sample(&result.mixer, &text.prompt, &text.text)) } }
        }
    }
}

fn setting(c: &Comparison, config: &CompareConfig) -> Vec<(&'static str, String)> {
    let tokens = if c.unit == "token" { String::new() } else { format!(", one token per {}", c.unit) };
    let rate = |v: f64| Quantity::Scientific.text(v, 2);
    let o = &config.optimizer;
    let (width, layers, heads) = (c.d_model, c.layers, c.heads);
    let (data, model, batch) = if let Some(ImageFacts { channels, size: [rows, columns], classes, patch }) = c.image {
        let plural = if channels == 1 { "channel" } else { "channels" };
        let model = format!(
            "tokens of {patch} × {patch} pixels, learned positions, width {width}, {layers} layers, {heads} heads, LayerNorm before each part, GELU, \
             mean of the map; of convolutions alone: a stem of convolutions, no positions, batch norms"
        );
        let data = format!("images of {rows} × {columns} pixels, {channels} {plural}, {classes} classes");
        (data, model, format!("{} images of {} tokens", config.batch, config.context))
    } else {
        let model = format!("width {width}, {layers} layers, {heads} heads, RMSNorm before each part, SwiGLU");
        let tied = if config.task.predicts_tokens() { ", tied embedding" } else { "" };
        (format!("vocabulary of {}", c.vocab), model + tied, format!("{} × {} tokens", config.batch, config.context))
    };
    let mut rows = vec![
        ("Task", task_name(&c.task).to_owned()),
        ("Data", c.data.clone().map_or_else(|| "generated".into(), |d| format!("{d}{tokens}, {data}"))),
        ("Model", model),
        ("Weights", "inner width of the channel mixers solved so that all candidates agree within 2 %".into()),
        ("Budget", format!("{}: {} steps of {batch} for each run", config.budget, c.steps)),
        (
            "Optimiser",
            format!(
                "AdamW, rate {} to {}, β {} and {}, weight decay {}, clipped at norm {}",
                rate(o.rate),
                rate(o.final_rate),
                o.beta1,
                o.beta2,
                o.weight_decay,
                o.clip
            ),
        ),
        (
            "Evaluation",
            format!(
                "{} times in a run on at least {} validation tokens, as far as there are so many",
                config.evaluations, config.eval_tokens
            ),
        ),
        ("Seeds", config.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
    ];
    rows.extend(c.candidates.iter().map(|r| ("Inner width", format!("{}: {} ({} parameters)", r.mixer, r.d_ff, r.params))));
    rows.push(("Time", Quantity::Seconds.text(c.seconds, 3)));
    rows
}
