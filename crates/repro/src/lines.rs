use std::{cell::RefCell, io, rc::Rc};

/// Text that two owners see: what an observer inside a run writes, on its way to the writer of the one outside.
#[derive(Clone, Default)]
pub(crate) struct Lines(Rc<RefCell<Vec<u8>>>);

impl Lines {
    /// What was written since.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.borrow_mut())
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
