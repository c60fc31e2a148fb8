//! Between Flex tensors and the slices of the kernels.

use burn::{
    backend::{
        Flex, TensorMetadata,
        flex::{FlexTensor, Layout},
        ops::FloatTensorOps,
    },
    tensor::{Bytes, DType, Shape},
};

use super::{
    backward::{Cotangents, backward, parts},
    bias::{bias_backward, distances_backward},
    forward::forward,
    problem::{Bias, Distances, Problem, Sizes},
};
use crate::blocks::{
    flex::{NewTensor, dims, from_start, strides, view, with_whole_rows},
    simd::{Target, View, scratch},
    softmax::kernel::{Gradients, Inputs, Maybe, MaybeBool, Options, Saved},
};

/// Inputs whose rows are contiguous.
struct Prepared {
    sizes: Sizes,
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    bias: Option<FlexTensor>,
    distances: Option<FlexTensor>,
    padding: Option<FlexTensor>,
}

impl Prepared {
    fn new(inputs: Inputs<Flex>) -> Self {
        let ([b, h, t, k], [_, g, s, _], [_, _, _, v]) = (dims(&inputs.q), dims(&inputs.k), dims(&inputs.v));
        Self {
            sizes: Sizes { b, h, g, t, s, k, v },
            q: with_whole_rows(inputs.q),
            k: with_whole_rows(inputs.k),
            v: with_whole_rows(inputs.v),
            bias: inputs.bias.into_option().map(|bias| if strides(&bias).is_some() { bias } else { bias.to_contiguous() }),
            distances: inputs.distances.into_option().map(|distances| distances.to_contiguous()),
            padding: match inputs.padding {
                MaybeBool::Some(padding) => Some(padding.to_contiguous()),
                MaybeBool::None => None,
            },
        }
    }

    fn problem(&self, options: Options) -> Problem<'_> {
        let bias = self.bias.as_ref().map(|bias| {
            let strides = strides(bias).expect("checked or made contiguous in `new`");
            Bias::new(from_start(bias), strides, dims(bias))
        });
        Problem {
            sizes: self.sizes,
            q: view(&self.q),
            k: view(&self.k),
            v: view(&self.v),
            bias,
            distances: self.distances.as_ref().map(|x| Distances::new(from_start(x), x.shape()[0], x.shape()[1])),
            padding: self.padding.as_ref().map(|padding| &padding.storage::<u8>()[padding.layout().start_offset()..]),
            causal: options.causal,
            scale: options.scale as f32,
        }
    }
}

pub(crate) fn softmax_forward(inputs: Inputs<Flex>, options: Options) -> (FlexTensor, FlexTensor) {
    let inputs = Prepared::new(inputs);
    let Sizes { b, h, t, v, .. } = inputs.sizes;
    let mut o = NewTensor::like(&inputs.q, [b, h, t, v]);
    let mut lse = scratch(b * h * t);
    forward(&inputs.problem(options), &o.target(), &Target::new(&mut lse, [h * t, t, 1], [b, h, t, 1]));
    (o.finish(), FlexTensor::new(Bytes::from_elems(lse), Layout::contiguous(Shape::new([b, h, t])), DType::F32))
}

pub(crate) fn softmax_backward(inputs: Inputs<Flex>, options: Options, saved: Saved<Flex>, wanted: [bool; 5]) -> Gradients<Flex> {
    let inputs = Prepared::new(inputs);
    let problem = inputs.problem(options);
    let Sizes { b, h, t, .. } = inputs.sizes;
    let o = with_whole_rows(saved.o);
    let lse = saved.lse.to_contiguous();
    let d_o = saved.d_o.into_option().map(with_whole_rows);
    let d_lse = saved.d_lse.into_option().map(|x| x.to_contiguous());
    let per_query = |x: &'_ FlexTensor| [h * t, t, 1].map(|s| s.min(x.layout().num_elements()));
    let cotangents = Cotangents {
        o: view(&o),
        lse: View::new(from_start(&lse), per_query(&lse), [b, h, t, 1]),
        d_o: d_o.as_ref().map(view),
        d_lse: d_lse.as_ref().map(|x| View::new(from_start(x), per_query(x), [b, h, t, 1])),
    };
    let [want_q, want_k, want_v, want_bias, want_distances] = wanted;
    let new = |wanted: bool, like: &FlexTensor| wanted.then(|| NewTensor::like(like, dims(like)));
    let mut d_q: Vec<_> = (0..if want_q { parts(inputs.sizes) } else { 0 }).filter_map(|_| new(true, &inputs.q)).collect();
    let (mut d_k, mut d_v) = (new(want_k, &inputs.k), new(want_v, &inputs.v));
    if want_q || want_k || want_v {
        let d_q: Vec<_> = d_q.iter_mut().map(NewTensor::target).collect();
        let (d_k, d_v) = (d_k.as_mut().map(NewTensor::target), d_v.as_mut().map(NewTensor::target));
        backward(&problem, &cotangents, &d_q, d_k.as_ref(), d_v.as_ref());
    }
    let bias = inputs.bias.as_ref().filter(|_| want_bias).map(|bias| {
        let dims = dims(bias);
        let mut gradient = vec![0.0; dims.iter().product()];
        bias_backward(&problem, &cotangents, &mut gradient, dims);
        FlexTensor::new(Bytes::from_elems(gradient), Layout::contiguous(Shape::new(dims)), DType::F32)
    });
    let distances = inputs.distances.as_ref().filter(|_| want_distances).map(|distances| {
        let shape = distances.shape();
        let mut gradient = vec![0.0; shape.num_elements()];
        distances_backward(&problem, &cotangents, &mut gradient);
        FlexTensor::new(Bytes::from_elems(gradient), Layout::contiguous(shape), DType::F32)
    });
    Gradients {
        q: Maybe::new(d_q.into_iter().map(NewTensor::finish).reduce(Flex::float_add)),
        k: Maybe::new(d_k.map(NewTensor::finish)),
        v: Maybe::new(d_v.map(NewTensor::finish)),
        bias: Maybe::new(bias),
        distances: Maybe::new(distances),
    }
}
