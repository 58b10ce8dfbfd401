"""Data sets: named ones, a user's own table, and arrays in a file.

`load` takes a name (`digits`, `mnist`, `fashion_mnist`) or the path of a `.csv` or
`.npz` file, and always returns a `Dataset` of plain NumPy arrays.
"""

from .arrays import arrays as arrays
from .augmentation import shift_images as shift_images
from .catalogue import NAMES as NAMES, load as load
from .dataset import Dataset as Dataset
from .idx import read_idx as read_idx
from .images import digits as digits, fashion_mnist as fashion_mnist, mnist as mnist
from .schema import Column as Column, TableSchema as TableSchema
from .table import read_table as read_table, table as table
