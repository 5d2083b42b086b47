"""The tracker against truth on synthetic crowds, and whether it knows where it erred.

python tests/benchmarks/bench_track.py [SCENES]
"""

import sys
import time

from extpose.config import DetectConfig
from extpose.detect.quality import measure_tracks
from extpose.detect.track import link_tracks
from tests.crowds import SIZE, make_crowd, score_tracks


def main() -> None:
    num_scenes = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    print(f"{num_scenes} scenes each, 120 frames; detections 5 % missed, 90 % of those hidden")
    print("people  MOTA   IDF1   switches  scenes with: a switch  suspected  both  frames/CPU s")
    for people in (2, 3, 5):
        mota, idf1, switches, wrong, said, both, frames = [], [], 0, 0, 0, 0, 0
        start = time.process_time()
        for seed in range(num_scenes):
            crowd = make_crowd(seed, people=people)
            tracks = link_tracks(crowd.frames, DetectConfig(), SIZE).tracks
            quality = measure_tracks(tracks, image_size=SIZE, frames=(0, len(crowd.frames)))
            suspected = any(q.num_switches or q.num_breaks for q in quality)
            score = score_tracks(crowd.boxes, tracks)
            frames += len(crowd.frames)
            mota.append(score.mota)
            idf1.append(score.idf1)
            switches += len(score.switches)
            wrong += bool(score.switches)
            said += suspected
            both += suspected and bool(score.switches)
        rate = frames / (time.process_time() - start)
        means = f"{sum(mota) / num_scenes:.3f}  {sum(idf1) / num_scenes:.3f}"
        counts = f"{switches:8d}  {wrong:21d}  {said:9d}  {both:4d}"
        print(f"{people:6d}  {means}  {counts}  {rate:12.0f}", flush=True)


if __name__ == "__main__":
    main()
