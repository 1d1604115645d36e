/** A starter for lock-node.test.ts: takes the lock of a folder, tells what became of it, and holds it until told to go. */
import { appendFileSync } from 'node:fs'
import { messageOf } from '../../common/errors.ts'
import { lockFolder } from '../../common/lock-node.ts'

const [folder = '', journal = '', mode = 'release'] = process.argv.slice(2)
for (let round = 0; round < 6; round++) {
  try {
    const unlock = await lockFolder(folder)
    appendFileSync(journal, `in ${process.pid}\n`)
    await new Promise(resolve => setTimeout(resolve, Math.random() * 8))
    appendFileSync(journal, `out ${process.pid}\n`)
    // As kill -9 does: the lock stays, naming a process that is no more.
    if (mode === 'kill') process.kill(process.pid, 'SIGKILL')
    await unlock()
  } catch (error) {
    if (!messageOf(error).includes('is in use by')) throw error
    await new Promise(resolve => setTimeout(resolve, Math.random() * 4))
  }
}
