/** Preloaded (`node --import`) into a real process: once the file named by FAIL_FDATASYNC_WHEN is there, every fdatasync fails with EIO. */

import { createRequire, syncBuiltinESMExports } from 'node:module'

const fs = createRequire(import.meta.url)('node:fs')
const trigger = process.env.FAIL_FDATASYNC_WHEN ?? ''
const real = fs.fdatasync
fs.fdatasync = (fd: number, done: (error: Error | null) => void) => {
  if (!fs.existsSync(trigger)) return real(fd, done)
  setImmediate(done, Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' }))
}
syncBuiltinESMExports()
