//! Between Flex tensors and the slices of the kernels.

use burn::{
    backend::{
        Flex, TensorMetadata,
        flex::{FlexTensor, Layout},
    },
    tensor::{Bytes, DType, Shape, Tensor},
};

use super::{
    backward::{Cotangents, Targets, backward as run_backward},
    forward::forward as run_forward,
    grid::{Grid, GridMut},
    problem::{Problem, Table, Vectors},
};
use crate::blocks::{
    flex::from_start,
    neighborhood::{
        kernel::{Gradients, Inputs, WANTED},
        plan::Plan,
    },
    of_backend, primitive,
    simd::scratch,
};

/// Inputs as they lie in memory, rows contiguous.
struct Prepared {
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    table: Option<Table>,
    extra: Option<[FlexTensor; 2]>,
    relative: Option<([FlexTensor; 2], f32)>,
}

impl Prepared {
    fn new<const N: usize>(inputs: &Inputs<N>, plan: &Plan) -> Self {
        let [q, k, v] = inputs.grids.clone().map(with_whole_rows);
        let heads = q.shape()[N - 2];
        let table = inputs.bias.clone().map(|bias| Table::new(from_start(&flat(bias).to_contiguous()), heads, plan));
        let relative = inputs.relative.clone().map(|x| (x.vectors.map(|x| flat(x).to_contiguous()), x.factor as f32));
        Self { q, k, v, table, extra: inputs.extra.clone().map(|x| x.map(with_whole_rows)), relative }
    }

    fn problem<'a>(&'a self, plan: &'a Plan) -> Problem<'a> {
        let (of_q, of_k) = (dims(&self.q), dims(&self.k));
        let extra = self.extra.as_ref().map(|[k, v]| ([grid(k), grid(v)], k.shape()[1]));
        Problem {
            b: of_q[0],
            h: of_q[4],
            g: of_k[4],
            plan,
            q: grid(&self.q),
            k: grid(&self.k),
            v: grid(&self.v),
            table: self.table.as_ref(),
            extra,
            relative: self.relative.as_ref().map(|(x, factor)| Vectors { vectors: x.each_ref().map(whole), factor: *factor }),
        }
    }

    /// Of an output with this width of rows.
    fn outputs(&self, width: usize) -> [usize; 6] {
        let mut dims = dims(&self.q);
        dims[5] = width;
        dims
    }
}

pub(crate) fn forward<const N: usize>(inputs: &Inputs<N>, plan: &Plan) -> [Tensor<N>; 2] {
    let prepared = Prepared::new(inputs, plan);
    let problem = prepared.problem(plan);
    let [of_o, of_lse] = [problem.v.width(), 1].map(|width| prepared.outputs(width));
    let [mut o, mut lse] = [of_o, of_lse].map(|dims| scratch(dims.iter().product()));
    if !of_lse.contains(&0) {
        run_forward(&problem, &GridMut::new(&mut o, of_o), &GridMut::new(&mut lse, of_lse));
    }
    let shape = inputs.grids[0].dims();
    [(o, of_o[5]), (lse, 1)].map(|(data, width)| {
        let mut shape = shape;
        shape[N - 1] = width;
        tensor(data, shape)
    })
}

pub(crate) fn backward<const N: usize>(
    inputs: &Inputs<N>,
    plan: &Plan,
    outputs: &[Tensor<N>; 2],
    cotangents: [Option<Tensor<N>>; 2],
    wanted: [bool; WANTED],
) -> Gradients<N> {
    let prepared = Prepared::new(inputs, plan);
    let problem = prepared.problem(plan);
    let [o, lse] = outputs.clone().map(with_whole_rows);
    let [d_o, d_lse] = cotangents.map(|x| x.map(with_whole_rows));
    let cotangents = Cotangents { o: grid(&o), lse: grid(&lse), d_o: d_o.as_ref().map(grid), d_lse: d_lse.as_ref().map(grid) };

    let of = [&prepared.q, &prepared.k, &prepared.v].map(dims);
    // Gradients of extra keys and values are made together with those on the grid.
    let on_grid = [wanted[0], wanted[1] || wanted[4], wanted[2] || wanted[5]];
    let mut grids = [0, 1, 2].map(|i| on_grid[i].then(|| vec![0.0; of[i].iter().product()]));
    let mut bias = inputs.bias.as_ref().map(|bias| vec![0.0; bias.dims().iter().product()]);
    let mut relative = inputs.relative.as_ref().map(|x| x.vectors.each_ref().map(|x| vec![0.0; x.dims().iter().product()]));
    let mut extra = inputs.extra.as_ref().map(|x| x.each_ref().map(|x| vec![0.0; x.dims().iter().product()]));
    if !prepared.outputs(1).contains(&0) {
        let [q, k, v] = &mut grids;
        let targets = Targets {
            q: q.as_mut().map(|x| GridMut::new(x, of[0])),
            k: k.as_mut().map(|x| GridMut::new(x, of[1])),
            v: v.as_mut().map(|x| GridMut::new(x, of[2])),
        };
        let sums = run_backward(&problem, &cotangents, &targets, wanted[3]);
        let (heads, table) = (problem.h / problem.g, plan.table());
        let parts = sums.len() / (problem.b * problem.g);
        for (index, sums) in sums.iter().enumerate() {
            let (b, g) = (index / parts / problem.g, index / parts % problem.g);
            if let (Some(bias), Some(tables)) = (&mut bias, prepared.table.as_ref()) {
                for (h, gradient) in sums.tables.iter().enumerate() {
                    let to = &mut bias[(g * heads + h) * table..][..table];
                    to.iter_mut().zip(tables.unreversed(gradient)).for_each(|(to, x)| *to += x);
                }
            }
            for (to, from) in relative.iter_mut().flatten().zip(&sums.relative) {
                to.iter_mut().zip(from).for_each(|(to, x)| *to += x);
            }
            for (to, from) in extra.iter_mut().flatten().zip([&sums.extra_k, &sums.extra_v]) {
                let (_, m) = problem.extra.expect("there are sums of them");
                let width = from.len() / m.max(1);
                for (j, row) in from.chunks_exact(width.max(1)).enumerate() {
                    let to = &mut to[((b * m + j) * problem.g + g) * width..][..width];
                    to.iter_mut().zip(row).for_each(|(to, x)| *to += x);
                }
            }
        }
    }
    let shapes = inputs.grids.each_ref().map(Tensor::dims);
    let [q, k, v] = grids;
    let grids = [(q, shapes[0]), (k, shapes[1]), (v, shapes[2])].map(|(x, shape)| x.map(|x| tensor(x, shape)));
    let extra = match (extra, &inputs.extra) {
        (Some([k, v]), Some([of_k, of_v])) => [Some(tensor(k, of_k.dims())), Some(tensor(v, of_v.dims()))],
        _ => [None, None],
    };
    let bias = bias.zip(inputs.bias.as_ref()).map(|(x, of)| tensor(x, of.dims()));
    let relative = match (relative, &inputs.relative) {
        (Some([y, x]), Some(of)) => [Some(tensor(y, of.vectors[0].dims())), Some(tensor(x, of.vectors[1].dims()))],
        _ => [None, None],
    };
    Gradients { grids, bias, extra, relative }
}

/// The numbers of a contiguous tensor.
fn whole(x: &FlexTensor) -> &[f32] {
    &from_start(x)[..x.layout().num_elements()]
}

fn flat<const D: usize>(x: Tensor<D>) -> FlexTensor {
    primitive::<Flex>(x.into_dispatch())
}

fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    let tensor = FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(Shape::from(shape)), DType::F32);
    Tensor::from_dispatch(of_backend::<Flex>(tensor))
}

fn with_whole_rows<const D: usize>(x: Tensor<D>) -> FlexTensor {
    let x = flat(x);
    let strides = x.layout().strides();
    let forwards = strides.iter().all(|&stride| stride >= 0);
    if forwards && (strides[D - 1] == 1 || x.shape()[D - 1] <= 1) { x } else { x.to_contiguous() }
}

/// `[B, X1, X2, X3, H, width]`: axes of the grid that there are not are leading ones of length 1.
fn dims(x: &FlexTensor) -> [usize; 6] {
    let (shape, n) = (x.shape(), x.shape().num_dims());
    std::array::from_fn(|i| match i {
        0 => shape[0],
        i if i + n < 7 => 1,
        i => shape[i + n - 6],
    })
}

fn grid(x: &FlexTensor) -> Grid<'_> {
    let (strides, n) = (x.layout().strides(), x.shape().num_dims());
    let strides = std::array::from_fn(|i| match i {
        0 => strides[0].unsigned_abs(),
        i if i + n < 7 => 0,
        i => strides[i + n - 6].unsigned_abs(),
    });
    Grid::new(from_start(x), strides, dims(x))
}
