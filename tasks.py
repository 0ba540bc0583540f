"""AurumAI's commands: `invoke --list` shows them, `invoke --help NAME` one of them.

What a command alone needs and takes long to import, it imports itself: the others stay quick.
"""

from invoke.collection import Collection

from app.tasks import access, backups, containers, development, documents, drafts, loads, migrations, service

ROOMS = (service, loads, drafts, migrations, documents, access, backups, containers, development)

namespace = Collection()
for room in ROOMS:
    for task in Collection.from_module(room).tasks.values():
        namespace.add_task(task)
