/// The project's own pages, one after another: text that is there without a download.
pub(super) fn text() -> String {
    let pages = regard::registry::MECHANISMS.iter().map(|entry| entry.page);
    pages.chain([include_str!("../README.md")]).collect::<Vec<_>>().join("\n")
}
