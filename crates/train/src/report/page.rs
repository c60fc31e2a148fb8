use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = concat!(include_str!("plot.css"), include_str!("page.css"));

/// One self-contained HTML page: style sheet inside, no script, nothing fetched; light and dark, for phones and for print.
pub fn page(title: &str, lead: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(concat!("regard ", env!("CARGO_PKG_VERSION")));
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header {
                        h1 { (title) }
                        p.lead { (lead) }
                    }
                    (body)
                    footer { "Written by regard " (env!("CARGO_PKG_VERSION")) "." }
                }
            }
        }
    }
    .into_string()
}

/// Plots side by side where there is room.
pub fn plots(plots: &[super::Plot]) -> Markup {
    html! { div.plots { @for plot in plots { (plot.figure()) } } }
}

/// A table of names and values.
pub fn facts(facts: &[(impl AsRef<str>, String)]) -> Markup {
    html! {
        table.facts { tbody { @for (name, value) in facts { tr { th scope="row" { (name.as_ref()) } td { (value) } } } } }
    }
}

/// A text that can be copied, such as a command or a file.
pub fn code(text: &str) -> Markup {
    html! { pre.code { (text) } }
}

/// Something long, folded away until asked for.
pub fn folded(summary: &str, body: &Markup) -> Markup {
    html! { details { summary { (summary) } (body) } }
}

/// A generated text after its prompt.
pub fn sample(name: &str, prompt: &str, text: &str) -> Markup {
    html! { div.sample { h3 { (name) } pre { span.prompt { (prompt) } (text) } } }
}
