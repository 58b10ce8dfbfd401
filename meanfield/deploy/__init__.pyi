from .formats.archive import (
    load_archive as load_archive,
    load_subnetwork as load_subnetwork,
)
from .formats.formats import export as export
from .shipping.served import check_shipped as check_shipped
from .shipping.ship import ship as ship
from .shipping.subnetworks import sample_subnetworks as sample_subnetworks
from .shrinking.shrink import shrink as shrink
