// Says in JSON what Mermaid sees in the erDiagram on stdin: node parse.mjs MODULE. Without a browser it can parse, not draw.
import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

try {
  const { default: mermaid } = await import(pathToFileURL(process.argv[2]))
  const text = readFileSync(0, 'utf8')
  await mermaid.parse(text) // also makes the kinds of diagrams known
  const { db } = await mermaid.mermaidAPI.getDiagramFromText(text)
  const names = new Map([...db.getEntities()].map(([name, { id }]) => [id, name]))
  console.log(JSON.stringify({
    entities: Object.fromEntries([...db.getEntities()].map(([name, { attributes }]) =>
      [name, attributes.map((each) => [each.type, each.name, each.keys ?? [], each.comment ?? ''])])),
    relations: db.getRelationships().map(({ entityA, entityB, roleA, relSpec }) =>
      [names.get(entityA), names.get(entityB), roleA, relSpec.cardB, relSpec.cardA, relSpec.relType]),
  }))
} catch (error) { // its stack would show the whole bundle
  console.error(error.message)
  process.exitCode = 1
}
