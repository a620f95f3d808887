"""Opens the database, SQLite or PostgreSQL, and hands out connections: `read`, `transaction`, `migrate`.

Everything in which the two differ is in this package: how a connection is set up, how writers take turns, how an
insert meets a conflict, which driver error means "out of reach". It knows no table.
"""

from retouch.database.columns import Json, Number, UtcTime, insert_into, insert_of, metadata
from retouch.database.database import Database

__all__ = ["Database", "Json", "Number", "UtcTime", "insert_into", "insert_of", "metadata"]
