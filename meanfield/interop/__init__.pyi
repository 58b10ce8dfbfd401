from . import arviz as arviz, numpyro as numpyro, sklearn as sklearn
