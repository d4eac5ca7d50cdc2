"""An articulated body: its build and pose as angles, and where that puts its 16 joints.

Coordinates:
    body: x towards the person's left, y down, z backwards; the pelvis is the origin, an upright person
        is about 1 high. Seen from the front, x points to the right of the picture.
    picture: x, y in pixels, z in pixels away from the camera, 0 at the pelvis.

"Left" and "right" are the person's, as in MPII.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets.heads import rotation

Float: TypeAlias = npt.NDArray[np.float64]

# MPII's order.
JOINTS = (
    "right_ankle",
    "right_knee",
    "right_hip",
    "left_hip",
    "left_knee",
    "left_ankle",
    "pelvis",
    "thorax",
    "upper_neck",
    "head_top",
    "right_wrist",
    "right_elbow",
    "right_shoulder",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
)
# Pairs of joints, counted from 1 as COCO does.
SKELETON = (
    (1, 2),
    (2, 3),
    (3, 7),
    (7, 4),
    (4, 5),
    (5, 6),
    (7, 8),
    (8, 9),
    (9, 10),
    (11, 12),
    (12, 13),
    (13, 8),
    (8, 14),
    (14, 15),
    (15, 16),
)
NUM_JOINTS = len(JOINTS)
RIGHT, LEFT = -1, 1

HIP_HALF_WIDTH, SHOULDER_HALF_WIDTH = 0.062, 0.115
TORSO, NECK, HEAD = 0.3, 0.055, 0.15
THIGH, SHIN, UPPER_ARM, FOREARM = 0.24, 0.235, 0.165, 0.145


@dataclass(frozen=True, kw_only=True)
class Bone:
    """A stretch of the body that is drawn as a capsule and may hide what is behind it.

    Attributes:
        joints: names of the two ends.
        radii: half the thickness at both ends, for a scale of 1.
        garment: what covers it: "thigh", "shin", "upper_arm", "forearm", "trunk" or "head".
    """

    joints: tuple[str, str]
    radii: tuple[float, float]
    garment: str


def _limbs(side: str) -> tuple[Bone, ...]:
    return (
        Bone(joints=(f"{side}_hip", f"{side}_knee"), radii=(0.054, 0.039), garment="thigh"),
        Bone(joints=(f"{side}_knee", f"{side}_ankle"), radii=(0.038, 0.026), garment="shin"),
        Bone(
            joints=(f"{side}_shoulder", f"{side}_elbow"), radii=(0.037, 0.029), garment="upper_arm"
        ),
        Bone(joints=(f"{side}_elbow", f"{side}_wrist"), radii=(0.028, 0.021), garment="forearm"),
    )


LIMBS = (*_limbs("right"), *_limbs("left"))
TRUNK = (
    Bone(joints=("right_shoulder", "right_hip"), radii=(0.04, 0.045), garment="trunk"),
    Bone(joints=("left_shoulder", "left_hip"), radii=(0.04, 0.045), garment="trunk"),
    Bone(joints=("thorax", "pelvis"), radii=(0.06, 0.06), garment="trunk"),
)
HEAD_BONE = Bone(joints=("upper_neck", "head_top"), radii=(0.056, 0.056), garment="head")
TRUNK_JOINTS = ("right_hip", "left_hip", "pelvis", "thorax", "right_shoulder", "left_shoulder")


@dataclass(frozen=True, kw_only=True)
class Leg:
    """Angles of a leg in radians; all 0 = straight down."""

    abduction: float
    flexion: float
    knee: float


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Angles of an arm in radians; all 0 = straight down.

    Attributes:
        abduction: away from the body, pi = straight up.
        flexion: forwards.
        elbow: 0 = straight.
        elbow_direction: x away from the body, y down, z backwards: where the forearm bends to.
    """

    abduction: float
    flexion: float
    elbow: float
    elbow_direction: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Body:
    """A person in front of the camera.

    Attributes:
        legs, arms: right, left.
        spine: sideways bend of the trunk in radians, positive = to the person's left.
        neck: the same of the head against the trunk.
        nod: forward tilt of the head in radians.
        breadth: factor on the widths of shoulders and hips.
        centre: x, y of the pelvis in the picture.
        scale: pixels per unit of length: about the height of the upright person.
        yaw, pitch, lean: how the whole body is turned, radians; signs as of `heads.Head`.
    """

    legs: tuple[Leg, Leg]
    arms: tuple[Arm, Arm]
    spine: float
    neck: float
    nod: float
    breadth: float
    centre: tuple[float, float]
    scale: float
    yaw: float
    pitch: float
    lean: float


def invent_body(rng: np.random.Generator, *, scale: float) -> Body:
    """Invent a build and a pose, at the origin of the picture."""
    from_behind = rng.random() < 0.2
    return Body(
        legs=_invent_legs(rng),
        arms=(_invent_arm(rng), _invent_arm(rng)),
        spine=float(rng.normal(0, 0.12)),
        neck=float(rng.normal(0, 0.12)),
        nod=float(rng.normal(0.05, 0.15)),
        breadth=float(rng.uniform(0.85, 1.15)),
        centre=(0.0, 0.0),
        scale=scale,
        yaw=float(rng.normal(np.pi if from_behind else 0.0, 0.5)),
        pitch=float(rng.normal(0, 0.08)),
        lean=float(np.clip(rng.normal(0, 0.16), -0.6, 0.6)),
    )


def joints(body: Body) -> Float:
    """Return the joints (16, 3) in picture coordinates, in the order of JOINTS."""
    points = _joints_in_body(body)
    return in_picture(body, np.array([points[name] for name in JOINTS]))


def hidden_by_own_body(body: Body) -> npt.NDArray[np.bool_]:
    """Return which joints (16,) lie behind another part of the same body."""
    places = dict(zip(JOINTS, joints(body), strict=True))
    points_J3 = np.array(list(places.values()))
    is_hidden_J = np.zeros(NUM_JOINTS, dtype=np.bool_)
    for bone in (*LIMBS, *TRUNK, HEAD_BONE):
        own = TRUNK_JOINTS if bone.garment == "trunk" else bone.joints
        first, second = (places[name] for name in bone.joints)
        along = second - first
        share_J = (points_J3 - first)[:, :2] @ along[:2] / (along[:2] @ along[:2] + 1e-9)
        share_J = np.clip(share_J, 0, 1)
        gap_J3 = points_J3 - (first + share_J[:, None] * along)
        radius_J = bone.radii[0] + share_J * (bone.radii[1] - bone.radii[0])
        is_behind_J = gap_J3[:, 2] > 0.03 * body.scale
        is_covered_J = np.hypot(gap_J3[:, 0], gap_J3[:, 1]) < radius_J * body.scale
        is_hidden_J |= is_behind_J & is_covered_J & [name not in own for name in JOINTS]
    return is_hidden_J


def in_picture(body: Body, points_N3: Float) -> Float:
    """Return points (..., 3) in body coordinates as picture coordinates."""
    turned = points_N3 @ rotation(body.yaw, body.pitch, body.lean).T
    return turned * body.scale + (*body.centre, 0.0)


def forwards(body: Body) -> Float:
    """Return the direction (3,) in which the head looks: x, y in the picture, z away from the camera."""
    looking = np.array([0.0, np.sin(body.nod), -np.cos(body.nod)])
    return looking @ rotation(body.yaw, body.pitch, body.lean).T


def _joints_in_body(body: Body) -> dict[str, Float]:
    across = np.array([np.cos(body.spine), np.sin(body.spine), 0.0])
    upwards = np.array([np.sin(body.spine), -np.cos(body.spine), 0.0])
    tilt = body.spine + body.neck
    head_up = np.array([np.sin(tilt), -np.cos(tilt), -np.sin(body.nod)])
    thorax = TORSO * upwards
    upper_neck = thorax + NECK * upwards
    points = {
        "pelvis": np.zeros(3),
        "thorax": thorax,
        "upper_neck": upper_neck,
        "head_top": upper_neck + HEAD * head_up / np.linalg.norm(head_up),
    }
    sides = ((RIGHT, "right"), (LEFT, "left"))
    for (side, name), leg, arm in zip(sides, body.legs, body.arms, strict=True):
        hip = np.array([side * HIP_HALF_WIDTH * body.breadth, 0.0, 0.0])
        knee = hip + THIGH * _swung(side, leg.abduction, leg.flexion)
        shoulder = thorax + side * SHOULDER_HALF_WIDTH * body.breadth * across - 0.01 * upwards
        upper_arm = _swung(side, arm.abduction, arm.flexion)
        elbow = shoulder + UPPER_ARM * upper_arm
        points |= {
            f"{name}_hip": hip,
            f"{name}_knee": knee,
            f"{name}_ankle": knee + SHIN * _swung(side, leg.abduction, leg.flexion - leg.knee),
            f"{name}_shoulder": shoulder,
            f"{name}_elbow": elbow,
            f"{name}_wrist": elbow + FOREARM * _bent(side, upper_arm, arm),
        }
    return points


def _swung(side: int, abduction: float, flexion: float) -> Float:
    """Return the direction of a limb that hangs down when both angles are 0."""
    down = np.cos(abduction)
    return np.array(
        [side * np.sin(abduction), down * np.cos(flexion), -abs(down) * np.sin(flexion)]
    )


def _bent(side: int, upper_arm: Float, arm: Arm) -> Float:
    """Return the direction of the forearm."""
    wanted = np.array(arm.elbow_direction) * (side, 1, 1)
    across = wanted - upper_arm * (wanted @ upper_arm)
    across /= np.linalg.norm(across) + 1e-9
    bent: Float = np.cos(arm.elbow) * upper_arm + np.sin(arm.elbow) * across
    return bent


def _invent_legs(rng: np.random.Generator) -> tuple[Leg, Leg]:
    """Return legs that stand, stride or crouch."""
    style = rng.random()
    if style < 0.5:  # standing
        flexions = rng.normal(0.05, 0.1, 2)
        knees = np.abs(rng.normal(0.05, 0.12, 2))
    elif style < 0.8:  # striding
        swing = rng.uniform(0.2, 0.8) * rng.choice((-1, 1))
        flexions = np.array((swing, -0.6 * swing)) + rng.normal(0, 0.1, 2)
        knees = rng.uniform(0.05, 1.1, 2)
    else:  # crouching or kicking
        flexions = rng.uniform(0.1, 1.5, 2)
        knees = np.clip(flexions * rng.uniform(0.6, 1.4, 2), 0, 2.2)
    right, left = (
        Leg(
            abduction=float(np.clip(rng.normal(0.1, 0.14), -0.12, 0.7)),
            flexion=float(flexion),
            knee=float(knee),
        )
        for flexion, knee in zip(flexions, knees, strict=True)
    )
    return right, left


def _invent_arm(rng: np.random.Generator) -> Arm:
    """Return an arm that hangs, points somewhere or is raised."""
    if rng.random() < 0.55:
        abduction = abs(rng.normal(0.12, 0.18))
    else:
        abduction = rng.uniform(0.3, 2.9)
    x, y, z = rng.normal((-0.3, -0.5, -0.8), 0.6).tolist()
    return Arm(
        abduction=float(abduction),
        flexion=float(rng.normal(0.15, 0.4)),
        elbow=float(np.clip(rng.gamma(1.6, 0.45), 0, 2.4)),
        elbow_direction=(x, y, z),
    )
