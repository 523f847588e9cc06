"""Helpers that the notebooks share. The ideas stand in the notebooks; the routine stands here.

Floors, each importing only what stands below it:
    project · pictures                            paths, atomic writes, the base of all errors; opening a picture
    data · folders · corruptions · records ·
    decks · parameters · show                     know nothing of Keras models
    runtime · models · transfer · augmentation    build models and what they are fed with
    evaluation · training                         use models and write records
    photo · gradcam · export                      ask, look into and convert what was trained
    plots                                         draws what evaluation returns
    bench · benchpage · pipeline · site           measure, run notebooks and publish; never import Keras
"""
