from .spikeslab import SpikeSlab as SpikeSlab
