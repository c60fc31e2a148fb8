use burn::{
    module::{Param, ParamId},
    tensor::{Device, Shape, Tensor},
};

/// A parameter whose initial value is made by `value` when it is first used, so that a network can be built for its shapes alone.
pub(crate) fn lazy_param<const D: usize>(
    shape: [usize; D],
    device: &Device,
    value: impl FnOnce(&Device) -> Tensor<D> + Send + Sync + 'static,
) -> Param<Tensor<D>> {
    let value = move |device: &Device, tracked: bool| value(device).set_require_grad(tracked);
    Param::uninitialized(ParamId::new(), value, device.clone(), true, Shape::from(shape))
}
