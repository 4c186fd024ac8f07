"""Records of images and videos with texts, of boxes, and of scans.

Most are lists of addresses, or need an agreement: their records are steps. `UNCHECKED` ends the
steps of a record whose address, licence or layout no public page confirmed.
"""

from collections.abc import Iterator
from typing import NamedTuple

from common.data.official.records import OfficialSet, RemoteFile

_COCO = "http://images.cocodataset.org/zips"
_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
UNCHECKED = "\nNot checked: that page could not be read; compare address, licence and layout."
_LIST = "\nMany addresses of such lists are gone: report how many images you got."


class _Steps(NamedTuple):
    name: str
    title: str
    licence: str
    folder: str
    holds: str
    steps: str


_BY_HAND = (
    _Steps(
        "laion400m",
        "LAION-400M",
        "see https://laion.ai/blog/laion-400-open-dataset; each image has that of its page",
        "laion400m",
        "00000.tar",
        "1. Get the list of https://laion.ai/blog/laion-400-open-dataset; it has been withdrawn for a"
        " revision before.\n"
        "2. Fetch it with img2dataset into webdataset shards of key.jpg and key.txt:"
        " laion400m/00000.tar, ..." + _LIST + UNCHECKED,
    ),
    _Steps(
        "datacomp",
        "DataComp's CommonPool, filtered",
        "see https://www.datacomp.ai; each image has that of its page",
        "datacomp",
        "00000.tar",
        "1. Run download_upstream.py --scale <scale> --data_dir <folder> of"
        " https://github.com/mlfoundations/datacomp (small: 450 GB, xlarge: 450 TB), then its"
        " resharder.py with the list of DataComp-1B.\n"
        "2. Move the shards to datacomp/00000.tar, ..." + _LIST,
    ),
    _Steps(
        "redcaps",
        "RedCaps, 12 million pairs of Reddit, with LaCLIP's rewrites",
        "see https://redcaps.xyz; each image has the licence of its author",
        "redcaps",
        "redcaps.csv",
        "1. Download annotations and images with"
        " https://github.com/redcaps-dataset/redcaps-downloader.\n"
        "2. Write redcaps/redcaps.csv (path,caption); a caption with commas is quoted.\n"
        "3. Rewrites: the table 'Pre-computed Augmented Texts' of https://github.com/LijieFan/LaCLIP"
        " has redcaps_{chatgpt,bard,mscoco,human}.txt, in the order of its redcaps_original.txt."
        + _LIST,
    ),
    _Steps(
        "yfcc15m",
        "OpenAI's subset of YFCC100M, 14.8 million photographs with title and description",
        "Creative Commons, by photograph",
        "yfcc15m",
        "yfcc15m.csv",
        "1. https://openaipublic.azureedge.net/clip/data/yfcc100m_subset_data.tsv.bz2 lists line,"
        " identifier and hash of each photograph.\n"
        "2. Get YFCC100M's metadata and images at https://multimediacommons.wordpress.com"
        "/yfcc100m-core-dataset.\n"
        "3. Write yfcc15m/yfcc15m.csv (path,title) and yfcc15m/yfcc15m_description.txt, one"
        " description a line.",
    ),
    _Steps(
        "merged",
        "CC3M, CC12M and YFCC15M in one table",
        "those of the three sets",
        "merged",
        "merged.csv",
        "1. Prepare cc3m, cc12m and yfcc15m.\n"
        "2. Join their tables as merged/merged.csv and their second texts, one a line in the same"
        " order, as merged/merged_description.txt.",
    ),
    _Steps(
        "cc12m_yfcc15m",
        "CC12M and YFCC15M in one table",
        "those of the two sets",
        "cc12m_yfcc15m",
        "pairs.csv",
        "1. Prepare cc12m and yfcc15m.\n2. Join their tables as cc12m_yfcc15m/pairs.csv.",
    ),
    _Steps(
        "sbu",
        "SBU captions",
        "each image has the terms of Flickr",
        "sbu",
        "00000.tar",
        "1. Get the list of https://www.cs.rice.edu/~vo9/sbucaptions.\n"
        "2. Fetch it with img2dataset into sbu/00000.tar, ..." + _LIST + UNCHECKED,
    ),
    _Steps(
        "webvid",
        "WebVid-2.5M",
        "withdrawn by its authors in February 2024; videos of Shutterstock",
        "webvid",
        "00000.tar",
        "1. There is no official source any more; https://github.com/m-bain/webvid says why.\n"
        "2. Videos and captions that you may use go to webvid/00000.tar, ... as key.mp4 and key.txt;"
        " or train without video_text.",
    ),
    _Steps(
        "mmc4",
        "MMC4 core: documents with images",
        "ODC-BY 1.0 and Common Crawl's terms of use; each image has that of its page",
        "mmc4",
        "00000.tar",
        "1. Fill in the form of https://github.com/allenai/mmc4 for the core part; the part with fewer"
        " faces (9.4 GB) needs none.\n"
        "2. Fetch the images by raw_url and put key.json with image_base64 in image_info into"
        " mmc4/00000.tar, ..." + _LIST,
    ),
    _Steps(
        "obelics",
        "OBELICS: documents with images",
        "CC BY 4.0; each image has that of its page",
        "obelics",
        "00000.tar",
        "1. Get HuggingFaceM4/OBELICS of the hub.\n"
        "2. Write key.json (texts, image_info, score) into obelics/00000.tar, ... as the card of"
        " cosmo says." + UNCHECKED,
    ),
    _Steps(
        "howto_interlink7m",
        "Howto-Interlink7M",
        "see https://github.com/showlab/cosmo; videos of YouTube",
        "howto_interlink7m",
        "00000.tar",
        "1. Get the annotations that https://github.com/showlab/cosmo names, and the videos.\n"
        "2. Write key.mp4 and key.json (clips) into howto_interlink7m/00000.tar, ..." + UNCHECKED,
    ),
    _Steps(
        "llava",
        "LLaVA's instructions",
        "CC BY-NC 4.0 (OpenAI's terms for the texts); images of COCO",
        "llava",
        "instructions.json",
        "1. Get liuhaotian/LLaVA-Instruct-150K of the hub.\n"
        "2. Put its JSON list as llava/instructions.json, images where `image` says." + UNCHECKED,
    ),
    _Steps(
        "objects365",
        "Objects365 v2, validation part",
        "see https://www.objects365.org",
        "objects365",
        "zhiyuan_objv2_val.json",
        "1. Register at https://www.objects365.org and download the validation part.\n"
        "2. Lay it out as objects365/zhiyuan_objv2_val.json and objects365/val." + UNCHECKED,
    ),
    _Steps(
        "vqa_e",
        "VQA-E: questions with explanations",
        "MIT; images of COCO",
        "vqa_e",
        "VQA-E_train_set.json",
        "1. https://github.com/liqing-ustc/VQA-E links both files.\n"
        "2. Put VQA-E_train_set.json and VQA-E_val_set.json into vqa_e.",
    ),
    _Steps(
        "visual_news",
        "VisualNews",
        "on request; articles of four newspapers",
        "visual_news",
        "origin",
        "1. Ask its authors, see https://github.com/FuxiaoLiu/VisualNews-Repository.\n"
        "2. Unpack its folder origin to visual_news/origin and write {train,val,test}_data.json there"
        " as the card of close says.",
    ),
    _Steps(
        "snli_ve",
        "SNLI-VE",
        "none stated; sentences of SNLI CC BY-SA 4.0",
        "snli_ve",
        "snli_ve_train.jsonl",
        "1. https://github.com/necla-ml/SNLI-VE links the three parts.\n"
        "2. Put snli_ve_{train,dev,test}.jsonl into snli_ve.",
    ),
    _Steps(
        "flickr30k",
        "images of Flickr30k",
        "after a form; terms of Flickr",
        "flickr30k-images",
        "1000092795.jpg",
        "1. Fill in the form at https://shannon.cs.illinois.edu/DenotationGraph.\n"
        "2. Unpack the images to flickr30k-images.",
    ),
    _Steps(
        "multi30k/texts",
        "Multi30k's texts and splits",
        "none stated; captions of Flickr30k",
        "multi30k",
        "task1",
        "1. Clone https://github.com/multi30k/dataset: data/task1 and data/task2 go to multi30k.\n"
        "2. Images: make data SET=multi30k.",
    ),
    _Steps(
        "xflickrco",
        "xFlickr&CO of IGLUE",
        "see https://github.com/e-bug/iglue",
        "xflickrco",
        "en",
        "1. datasets/xFlickrCO/annotations of https://github.com/e-bug/iglue goes to xflickrco,"
        " images to xflickrco/images.\n"
        "2. For fine-tuning its flickr30k/annotations/{train,valid}_ann.jsonl as"
        " xflickrco/en/{train,val}.jsonl." + UNCHECKED,
    ),
    _Steps(
        "iglue/wit",
        "WIT of IGLUE",
        "CC BY-SA 3.0; each image has its own",
        "wit",
        "test_da.jsonl",
        "1. datasets/wit/annotations of https://github.com/e-bug/iglue goes to wit.\n"
        "2. Images, and wit/images.jsonl: see the card of one_to_k." + UNCHECKED,
    ),
    _Steps(
        "ccrk",
        "CC3M in several languages, for one_to_k",
        "Google's terms for the list; each image has the licence of its page",
        "ccrk",
        "images",
        "1. Prepare cc3m; translations are those of UC2 and CCLM.\n"
        "2. The other languages: make run PROJECT=one_to_k TASK=translate; the card has the layout.",
    ),
    _Steps(
        "fashioniq",
        "FashionIQ",
        "Community Data License Agreement (CDLA)",
        "FashionIQ",
        "captions",
        "1. Get https://github.com/XiaoxiaoGuo/fashion-iq: captions and image_splits go to"
        " FashionIQ.\n"
        "2. Images: https://github.com/hongwang600/fashion-iq-metadata lists them; they go to"
        " FashionIQ/images.",
    ),
    _Steps(
        "cirr",
        "CIRR",
        "annotations MIT; images under the terms of NLVR2, after a form",
        "CIRR",
        "captions",
        "1. git clone -b cirr_dataset https://github.com/Cuberick-Orion/CIRR CIRR\n"
        "2. Ask for the images of NLVR2 by the form that its README links; they go to CIRR/img_raw.",
    ),
    _Steps(
        "circo",
        "CIRCO",
        "CC BY-NC 4.0; images of COCO",
        "CIRCO",
        "annotations",
        "1. git clone https://github.com/miccunifi/CIRCO CIRCO\n"
        "2. Unpack COCO's unlabeled2017 and its image list to CIRCO/COCO2017_unlabeled/{unlabeled2017,"
        "annotations}.",
    ),
    _Steps(
        "genecis",
        "GeneCIS",
        "CC BY-NC 4.0; images of COCO and Visual Genome",
        "GeneCIS",
        "genecis",
        "1. git clone https://github.com/facebookresearch/genecis GeneCIS\n"
        "2. Its DOWNLOAD.md names the images of COCO's val2017 and Visual Genome 1.2; the card of rtd"
        " has the layout.",
    ),
    _Steps(
        "tvqa_plus",
        "TVQA+: questions with boxes",
        "research, frames after a form",
        "tvqa_plus",
        "tvqa_plus_train.json",
        "1. Get annotations and subtitles from https://tvqa.cs.unc.edu to tvqa_plus:"
        " tvqa_plus_{train,val}.json and tvqa_plus_subtitles.json or"
        " tvqa_preprocessed_subtitles.jsonl.\n"
        "2. Features: TASK=features and TASK=objects of video_qa." + UNCHECKED,
    ),
    _Steps(
        "dramaqa",
        "DramaQA",
        "research, after a form",
        "AnotherMissOh",
        "AnotherMissOh_script.json",
        "1. Ask for the data at https://dramaqa.snu.ac.kr.\n"
        "2. Unpack it to AnotherMissOh; features: TASK=features and TASK=objects of video_qa."
        + UNCHECKED,
    ),
    _Steps(
        "nuscenes",
        "nuScenes",
        "CC BY-NC-SA 4.0, after registration",
        "nuscenes",
        "v1.0-trainval",
        "1. Register at https://www.nuscenes.org/nuscenes and download the parts trainval (about"
        " 400 GB; key frames 60 GB).\n"
        "2. Unpack v1.0-trainval and samples/LIDAR_TOP to nuscenes; the scene lists of nuscenes-devkit"
        " go to nuscenes/splits/{train,val}.txt.",
    ),
    _Steps(
        "once",
        "ONCE",
        "non-commercial research, after registration",
        "once",
        "ImageSets",
        "1. Register at https://once-for-auto-driving.github.io and download the LiDAR scans.\n"
        "2. Lay them out as once/{ImageSets,data/<sequence>/{<sequence>.json,lidar_roof}}."
        + UNCHECKED,
    ),
    _Steps(
        "semantic_kitti",
        "SemanticKITTI",
        "labels CC BY-NC-SA, scans of KITTI's odometry CC BY-NC-SA 3.0",
        "SemanticKITTI",
        "dataset",
        "1. https://semantic-kitti.org has labels and poses, https://www.cvlibs.net/datasets/kitti the"
        " Velodyne scans of odometry.\n"
        "2. Unpack all to SemanticKITTI/dataset/sequences/<number>/{velodyne,labels}." + UNCHECKED,
    ),
    _Steps(
        "waymo",
        "Waymo Open, perception 1.x",
        "Waymo's non-commercial licence, after registration",
        "waymo",
        ".",
        "1. Register at https://waymo.com/open and download the perception set.\n"
        "2. Convert it by OpenPCDet (waymo_processed_data_v0_5_0) and write frames.json as the card of"
        " trend says." + UNCHECKED,
    ),
)


def pair_sets() -> Iterator[OfficialSet]:
    """All records of this module."""
    yield OfficialSet(
        "coco/karpathy",
        "Karpathy's splits and captions of COCO; images: coco/train2014, coco/val2014",
        "captions of COCO CC BY 4.0",
        36,
        files=(
            RemoteFile(
                "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
            ),
        ),
        holds="dataset_coco.json",
        folder="coco",
    )
    for part, megabytes in (("train", 13_500), ("val", 6_600)):
        yield OfficialSet(
            f"coco/{part}2014",
            f"{part} images of COCO 2014",
            "Flickr's terms of use, see https://cocodataset.org",
            megabytes,
            "unpack_inside",
            (RemoteFile(f"{_COCO}/{part}2014.zip"),),
            holds=(
                "COCO_train2014_000000000009.jpg"
                if part == "train"
                else "COCO_val2014_000000000042.jpg"
            ),
        )
    yield OfficialSet(
        "vqa2",
        "VQA 2.0; images: coco/train2014, coco/val2014",
        "see https://visualqa.org/terms.html",
        None,
        files=tuple(
            RemoteFile(f"{_VQA}/v2_{kind}_{part}_mscoco.zip")
            for kind in ("Questions", "Annotations")
            for part in ("Train", "Val")
        ),
        holds="v2_mscoco_train2014_annotations.json",
    )
    for entry in _BY_HAND:
        yield OfficialSet(
            entry.name,
            entry.title,
            entry.licence,
            None,
            holds=entry.holds,
            folder=entry.folder,
            steps=entry.steps,
        )
