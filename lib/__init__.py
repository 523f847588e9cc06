"""Helpers that the notebooks share. The ideas stand in the notebooks; the routine stands here.

Floors; a module imports only such as stand before it:
    project · pictures · show                      paths, atomic writes, the base of all errors; pictures; cell outputs
    data · records · folders · parameters          images and results in files; `data` hands a path to `folders`
    decks · findings · waterfall                   what the decks say, what the records say to it
    runtime · models · transfer · augmentation ·
    optimizers                                     build models and what they are fed with
    corruptions · evaluation · training · ablation use models and write records
    photo · export · gradcam · embedding           ask, look into and convert what was trained
    plots · browse                                 draw what evaluation returns
    bench · benchpage · comparepage · site ·
    publish · pipeline · scaffold                  measure, run notebooks and publish; never import Keras
"""
