//! Outputs that are not finite for test images alone: the study ends with the layer's name, and writes no record of them.

use nettriage::{Dataset, Init, Network, Shape, Triage, arch, data, seeded};

/// Dim 8x8 images; in the test set, `bright` ones, far outside the training set's range.
fn images(count: usize, bright: usize) -> (Vec<u8>, Vec<u16>) {
    let pixel = |image: usize, at: usize| {
        if image < bright { 255 } else { 100 + ((image * 31 + at * 17) % 10) as u8 }
    };
    let pixels = (0..count).flat_map(|image| (0..64).map(move |at| pixel(image, at))).collect();
    (pixels, (0..count).map(|image| (image % 2) as u16).collect())
}

#[test]
fn a_parent_whose_outputs_overflow_on_a_test_image_is_refused() {
    let shape = data::Shape { channels: 1, height: 8, width: 8 };
    let set = |bright| {
        let classes = vec!["even".to_owned(), "odd".to_owned()];
        Dataset::from_arrays("dim", shape, classes, images(200, 0), images(50, bright)).unwrap()
    };
    let spec = arch::ArchSpec { plan: Some(vec![vec![4, 4], vec![8, 8]]), ..arch::ArchSpec::named("vgg") };
    let graph = arch::build(&spec, Shape::new(1, 8, 8), 2).unwrap();
    let mut network = Network::initialised(graph, &mut seeded(1)).unwrap();
    // Logits of dim images are near 1e37, those of bright ones are beyond the largest f32.
    let last = network.graph.layers.last().unwrap().name.clone();
    network.weights.get_mut(&format!("{last}.weight")).unwrap().data.iter_mut().for_each(|weight| *weight *= 3e37);
    let run = |bright| {
        let folder = tempfile::tempdir().unwrap();
        let study = Triage::new(network.clone(), set(bright)).inits([Init::He]).schemes(["none"]).seeds(1).images(32);
        study.run(folder.path().join("run")).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(run(0), Ok(()));
    let error = run(1).unwrap_err();
    assert!(error.contains("loss on the test images") && error.contains(&last), "{error}");
}
