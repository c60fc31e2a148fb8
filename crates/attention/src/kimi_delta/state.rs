use super::KimiDeltaState;
use crate::StateLayout;

impl KimiDeltaState {
    pub(crate) fn layout(&self) -> StateLayout {
        StateLayout::new().typed(&self.conv).typed(&self.memory)
    }
}
