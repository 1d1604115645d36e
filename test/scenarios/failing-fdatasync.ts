/**
 * Preloaded (`node --import`) into a real process: once the file named by FAIL_FDATASYNC_WHEN is there, everything that syncs a file's
 * data fails with EIO: fdatasync, and writes to files opened with O_DSYNC, which it leaves in the page cache as such a failure does.
 */

import { createRequire, syncBuiltinESMExports } from 'node:module'

type Done = (error: Error | null, count?: number) => void

const fs = createRequire(import.meta.url)('node:fs')
const trigger = process.env.FAIL_FDATASYNC_WHEN ?? ''
const { fdatasync, writev } = fs

const failure = (): Error => Object.assign(new Error('EIO: i/o error'), { code: 'EIO' })

/** Linux says how a file was opened, in octal; elsewhere O_DSYNC is not used. */
function isSynced(fd: number): boolean {
  const info = `/proc/self/fdinfo/${fd}`
  if (!fs.existsSync(info)) return false
  const flags = Number.parseInt(/^flags:\s*([0-7]+)/m.exec(fs.readFileSync(info, 'utf8'))?.[1] ?? '0', 8)
  return (flags & fs.constants.O_DSYNC) !== 0
}

fs.fdatasync = (fd: number, done: Done) => {
  if (fs.existsSync(trigger)) setImmediate(done, failure())
  else fdatasync(fd, done)
}
fs.writev = (fd: number, buffers: Uint8Array[], position: number, done: Done) => {
  const fails = fs.existsSync(trigger) && isSynced(fd)
  writev(fd, buffers, position, fails ? () => done(failure()) : done)
}
syncBuiltinESMExports()
