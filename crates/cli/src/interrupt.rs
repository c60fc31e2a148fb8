use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::failure::Failure;

/// The exit code of a command that a signal stopped.
pub(crate) const INTERRUPTED: u8 = 130;

/// Turns the first Ctrl-C (or SIGTERM, SIGHUP) into a flag that long work asks for; the second one quits at once.
///
/// # Errors
/// If the system refuses the handler.
pub(crate) fn catch() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"stopping after this step; press Ctrl-C again to quit at once\n");
    })
    .map_err(|e| Failure::new(format!("cannot handle Ctrl-C: {e}")))?;
    Ok(stop)
}
