"""Records of labelled image sets, in the folders that torchvision reads.

Addresses and MD5 sums are those of torchvision 0.26, except where a set's own page has them.
"""

from collections.abc import Iterator

from common.data.official.records import HubSource, OfficialSet, RemoteFile

_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_ERDA = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_CLIP = "https://openaipublic.azureedge.net/clip/data"
_BERKELEY = "https://people.eecs.berkeley.edu/~hendrycks"

# an archive with one folder: title, licence, MB, folder below the data root, a file of it, source
_ONE_FOLDER = {
    "cifar10": (
        "CIFAR-10",
        "none stated, see https://www.cs.toronto.edu/~kriz/cifar.html",
        170,
        "cifar-10-batches-py",
        "test_batch",
        RemoteFile(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
        ),
    ),
    "cifar100": (
        "CIFAR-100",
        "none stated, see https://www.cs.toronto.edu/~kriz/cifar.html",
        170,
        "cifar-100-python",
        "test",
        RemoteFile(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
        ),
    ),
    "stl10": (
        "STL-10",
        "images of ImageNet, see https://cs.stanford.edu/~acoates/stl10",
        2640,
        "stl10_binary",
        "test_X.bin",
        RemoteFile(
            "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            "md5:91f7769df0f17e558f3565bffb0c7dfb",
        ),
    ),
    "food101": (
        "Food-101",
        "images of Foodspotting, see https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        5000,
        "food-101",
        "meta",
        RemoteFile(
            "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            "md5:85eeb15f3717b99a5da872d97d918f87",
        ),
    ),
    "aircraft": (
        "FGVC-Aircraft",
        "non-commercial research, see https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        2750,
        "fgvc-aircraft-2013b",
        "data",
        RemoteFile(f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"),
    ),
    "sun397": (
        "SUN397",
        "see https://vision.princeton.edu/projects/2010/SUN",
        37_000,
        "SUN397",
        "ClassName.txt",
        RemoteFile(
            "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
            "md5:8ca2778205c41d23104230ba66911c7a",
        ),
    ),
    "country211": (
        "Country211",
        "images of YFCC100M, see https://github.com/openai/CLIP/blob/main/data/country211.md",
        11_000,
        "country211",
        "test",
        RemoteFile(f"{_CLIP}/country211.tgz", "md5:84988d7644798601126c29e9877aab6a"),
    ),
    "rendered_sst2": (
        "Rendered SST2",
        "see https://github.com/openai/CLIP/blob/main/data/rendered-sst2.md",
        130,
        "rendered-sst2",
        "test",
        RemoteFile(f"{_CLIP}/rendered-sst2.tgz", "md5:2384d08e9dcfa4bd55b324e610496ee5"),
    ),
    "imagenet_r": (
        "ImageNet-R",
        "code MIT, see https://github.com/hendrycks/imagenet-r",
        2200,
        "imagenet-r",
        "n01443537",
        RemoteFile(f"{_BERKELEY}/imagenet-r.tar"),
    ),
    "imagenet_a": (
        "ImageNet-A",
        "code MIT, see https://github.com/hendrycks/natural-adv-examples",
        690,
        "imagenet-a",
        "n01498041",
        RemoteFile(f"{_BERKELEY}/imagenet-a.tar"),
    ),
}
_BY_HAND = (  # name, title, licence, folder, layout below the data root, page
    (
        "cars",
        "Stanford Cars",
        "non-commercial research",
        "stanford_cars",
        "stanford_cars/{cars_train,cars_test,devkit,cars_test_annos_withlabels.mat}",
        "a copy (the authors' page is closed)",
    ),
    (
        "resisc45",
        "NWPU-RESISC45",
        "see its page",
        "NWPU-RESISC45",
        "NWPU-RESISC45/<class>/*.jpg",
        "https://gcheng-nwpu.github.io/#Datasets",
    ),
    (
        "cub200",
        "Caltech-UCSD Birds 200",
        "non-commercial research",
        "cub200",
        "cub200/{train,val}/001.Black_footed_Albatross/*.jpg by its train_test_split.txt",
        "https://www.vision.caltech.edu/datasets/cub_200_2011",
    ),
    (
        "hateful_memes",
        "Hateful Memes",
        "after accepting the terms",
        "hateful_memes",
        "hateful_memes/{train,dev}/{0,1}/*.png",
        "https://ai.meta.com/tools/hatefulmemes",
    ),
    (
        "imagenet_sketch",
        "ImageNet-Sketch",
        "code MIT",
        "sketch",
        "sketch/n01440764/*.JPEG",
        "https://github.com/HaohanWang/ImageNet-Sketch",
    ),
    (
        "objectnet",
        "ObjectNet",
        "CC BY 4.0, not for training",
        "objectnet-1.0",
        "objectnet-1.0/{images,mappings}",
        "https://objectnet.dev",
    ),
    (
        "celeba",
        "CelebA",
        "non-commercial research",
        "celeba",
        "celeba/list_attr_celeba.txt and celeba/img_align_celeba",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    ),
    (
        "imagenet22k",
        "ImageNet-22k, the release of winter 2021 or autumn 2011",
        "non-commercial research, after registration",
        "imagenet22k",
        "imagenet22k/train/**/*.JPEG, without labels",
        "https://image-net.org",
    ),
    (
        "webvision",
        "WebVision 1.0, 2.4 million images of Flickr and Google",
        "see the page; each image has that of its page",
        "webvision",
        "webvision/train/**/*.jpg, without labels",
        "https://data.vision.ee.ethz.ch/cvl/webvision/dataset2017.html",
    ),
    (
        "patch_camelyon",
        "PatchCamelyon",
        "see the page",
        "patch_camelyon",
        "patch_camelyon/{train,val}/{0,1}/*, written from its HDF5 files",
        "https://github.com/basveeling/pcam",
    ),
    (
        "kitti_distance",
        "KITTI's images by the distance of the nearest vehicle (VTAB)",
        "CC BY-NC-SA 3.0",
        "kitti_distance",
        "kitti_distance/{train,val}/{0..3}/*.png, classes as VTAB draws them from the boxes",
        "https://www.cvlibs.net/datasets/kitti",
    ),
    (
        "ucf101",
        "UCF101, middle frames",
        "see https://www.crcv.ucf.edu/data/UCF101.php",
        "ucf101_frames",
        "ucf101_frames/{train,val}/<class>/*.jpg",
        "https://www.crcv.ucf.edu/data/UCF101.php; https://github.com/facebookresearch/SLIP cuts the"
        " frames",
    ),
    (
        "chexpert",
        "CheXpert, small",
        "research agreement, after registration",
        "CheXpert-v1.0-small",
        "CheXpert-v1.0-small/{train,valid}.csv with the folders that they name",
        "https://stanfordmlgroup.github.io/competitions/chexpert",
    ),
    (
        "odir",
        "ODIR-5K",
        "see the page",
        "ODIR-5K",
        "ODIR-5K/full_df.csv and ODIR-5K/Training Images",
        "https://odir2019.grand-challenge.org, or Kaggle's"
        " andrewmvd/ocular-disease-recognition-odir5k, which has full_df.csv",
    ),
    (
        "multi30k",
        "Multi30k's images (Flickr30k)",
        "after a form",
        "multi30k/images",
        "multi30k/images/*.jpg",
        "https://shannon.cs.illinois.edu/DenotationGraph",
    ),
)


def image_sets() -> Iterator[OfficialSet]:
    """All records of this module."""
    for name, (title, licence, megabytes, folder, holds, source) in _ONE_FOLDER.items():
        yield OfficialSet(
            name,
            title,
            licence,
            megabytes,
            "unpack_inside",
            (source,),
            holds=holds,
            folder=folder,
        )
    yield OfficialSet(
        "dtd",
        "Describable Textures",
        "research, see https://www.robots.ox.ac.uk/~vgg/data/dtd",
        600,
        files=(
            RemoteFile(
                f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz", "md5:fff73e5086ae6bdbea199a49dfb8a4c1"
            ),
        ),
        holds="dtd",
    )
    yield OfficialSet(
        "flowers",
        "Oxford Flowers 102",
        "see https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        350,
        files=(
            RemoteFile(
                f"{_VGG}/flowers/102/102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa"
            ),
            RemoteFile(
                f"{_VGG}/flowers/102/imagelabels.mat", "md5:e0620be6f572b9609742df49c70aed4d"
            ),
            RemoteFile(f"{_VGG}/flowers/102/setid.mat", "md5:a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
        holds="jpg",
        folder="flowers-102",
    )
    yield OfficialSet(
        "pets",
        "Oxford-IIIT Pet",
        "CC BY-SA 4.0",
        800,
        files=(
            RemoteFile(f"{_VGG}/pets/data/images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            RemoteFile(
                f"{_VGG}/pets/data/annotations.tar.gz", "md5:95a8c909bbe2e81eed6a22bccdf3f68f"
            ),
        ),
        holds="annotations",
        folder="oxford-iiit-pet",
    )
    yield OfficialSet(
        "eurosat",
        "EuroSAT, the copy of torchgeo",
        "MIT; Sentinel data of Copernicus",
        90,
        files=(
            RemoteFile(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "md5:c8fa014336c82ac7804f0398fcb19387",
            ),
        ),
        holds="2750",
    )
    yield OfficialSet(
        "gtsrb",
        "German traffic signs",
        "see https://benchmark.ini.rub.de/gtsrb_news.html",
        360,
        files=(
            RemoteFile(f"{_ERDA}/GTSRB-Training_fixed.zip", "md5:513f3c79a4c5141765e10e952eaa2478"),
            RemoteFile(
                f"{_ERDA}/GTSRB_Final_Test_Images.zip", "md5:c7e4e6327067d32654124b0fe9e82185"
            ),
            RemoteFile(f"{_ERDA}/GTSRB_Final_Test_GT.zip", "md5:fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
        ),
        holds="GT-final_test.csv",
    )
    yield OfficialSet(
        "mnist",
        "MNIST",
        "see http://yann.lecun.com/exdb/mnist",
        12,
        files=tuple(
            RemoteFile(f"{_MNIST}/{name}.gz", f"md5:{md5}")
            for name, md5 in (
                ("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                ("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
                ("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
                ("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
            )
        ),
        holds="t10k-images-idx3-ubyte",
        folder="MNIST/raw",
    )
    yield OfficialSet(
        "clevr",
        "CLEVR 1.0",
        "CC BY 4.0",
        18_000,
        files=(
            RemoteFile(
                "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
                "md5:b11922020e72d0cd9154779b2d3d07d2",
            ),
        ),
        holds="CLEVR_v1.0",
    )
    yield OfficialSet(
        "caltech101",
        "Caltech 101",
        "CC BY 4.0",
        137,
        "unpack_twice",
        (
            RemoteFile(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "md5:3138e1922a9193bfa496528edbbc45d0",
            ),
        ),
        holds="101_ObjectCategories",
    )
    yield OfficialSet(
        "imagenet_v2",
        "ImageNet-V2, matched frequency",
        "see https://github.com/modestyachts/ImageNetV2",
        1260,
        "unpack_inside",
        hub=(HubSource("vaishaal/ImageNetV2", ("imagenetv2-matched-frequency.tar.gz",)),),
        holds="0",
        folder="imagenetv2-matched-frequency-format-val",
    )
    yield OfficialSet(
        "dsprites",
        "dSprites",
        "see https://github.com/google-deepmind/dsprites-dataset",
        27,
        "keep",
        (
            RemoteFile(
                "https://github.com/google-deepmind/dsprites-dataset/raw/master/"
                "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
            ),
        ),
        holds="dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    )
    for name, title, licence, folder, layout, page in _BY_HAND:
        yield OfficialSet(
            name,
            title,
            licence,
            None,
            holds=".",
            folder=folder,
            steps=f"1. Get it from {page}.\n2. Lay it out as {layout}.",
        )
