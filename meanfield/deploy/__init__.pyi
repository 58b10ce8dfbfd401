from .compaction import Compacted as Compacted, compact as compact
from .formats.archive import (
    Archive as Archive,
    load_archive as load_archive,
    load_subnetwork as load_subnetwork,
)
from .formats.formats import Exported as Exported, export as export
from .shipping.card import ModelCard as ModelCard
from .shipping.served import Checked as Checked, check_shipped as check_shipped
from .shipping.ship import ship as ship
from .shipping.signature import sign_shipped as sign_shipped
from .shipping.subnetworks import (
    Subnetwork as Subnetwork,
    sample_subnetworks as sample_subnetworks,
)
from .shrinking.narrow import Narrowed as Narrowed, narrow as narrow
from .shrinking.shrink import Shrunk as Shrunk, shrink as shrink
from .staged_learning import fit_in_stages as fit_in_stages
