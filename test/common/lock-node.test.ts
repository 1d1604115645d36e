import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, open, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, it } from 'vitest'
import { lockFolder } from '../../common/lock-node.ts'

const folders: string[] = []
afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true })
})

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'tributary-lock-'))
  folders.push(folder)
  return folder
}

const CHILD = fileURLToPath(import.meta.resolve('./lock-child.ts'))

/** A pid that nobody has. */
const NOBODY = 4_194_000

async function lockFiles(folder: string): Promise<string[]> {
  return (await readdir(folder)).filter(name => name.startsWith('lock'))
}

describe('the lock of a folder', () => {
  it.runIf(process.platform === 'linux')(
    'of a copy is not its original’s, unless who holds that has files open here',
    async () => {
      const original = await newFolder()
      const copy = join(await newFolder(), 'copy')
      const unlock = await lockFolder(original)
      await cp(original, copy, { recursive: true })
      const file = await open(join(copy, 'journal'), 'w')
      await expect(lockFolder(copy)).rejects.toMatchObject({ code: 'directory_in_use' })
      await file.close()
      const unlockCopy = await lockFolder(copy)
      await unlock()
      await expect(lockFolder(copy)).rejects.toMatchObject({ code: 'directory_in_use' })
      await unlockCopy()
    },
  )

  it('is held once, by whatever path, until it is given back', async () => {
    const folder = await newFolder()
    const other = join(await newFolder(), 'link')
    await symlink(folder, other)
    const unlock = await lockFolder(folder)
    await expect(lockFolder(other)).rejects.toMatchObject({ code: 'directory_in_use' })
    await unlock()
    await unlock()
    const again = await lockFolder(other)
    await expect(lockFolder(folder)).rejects.toMatchObject({ details: { pid: process.pid } })
    await again()
    expect(await lockFiles(folder)).toEqual(['lock-2'])
  })

  it('is taken over from a process that is no more, or whose pid another one has', async () => {
    const folder = await newFolder()
    for (const stale of [`${NOBODY} boot/1\n`, `${process.pid} boot/1\n`, 'no holder at all\n']) {
      await writeFile(join(folder, 'lock-7'), stale)
      const unlock = await lockFolder(folder)
      expect(await lockFiles(folder)).toEqual(['lock-8'])
      await unlock()
      await rm(join(folder, 'lock-8'))
    }
  })

  it('is refused while its holder lives', async () => {
    const folder = await newFolder()
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'])
    try {
      await once(child, 'spawn')
      await writeFile(join(folder, 'lock-3'), `${child.pid} \n`)
      await expect(lockFolder(folder)).rejects.toMatchObject({ details: { pid: child.pid } })
    } finally {
      child.kill('SIGKILL')
    }
  })

  it('may be removed with its folder', async () => {
    const folder = await newFolder()
    const unlock = await lockFolder(folder)
    await rm(folder, { recursive: true })
    await unlock()
  })

  it.each(['release', 'kill'])(
    'is never held by two of many starters that race for a stale one (%s)',
    async mode => {
      const folder = await newFolder()
      const journal = join(await newFolder(), 'journal')
      await writeFile(join(folder, 'lock-1'), `${NOBODY} boot/1\n`)
      const children = Array.from({ length: 8 }, () => {
        const child = spawn(process.execPath, [CHILD, folder, journal, mode])
        let errors = ''
        child.stderr.on('data', text => {
          errors += String(text)
        })
        return once(child, 'close').then(([code, signal]) => ({ code, signal, errors }))
      })
      for (const { code, signal, errors } of await Promise.all(children)) {
        expect({ errors, ended: code === 0 || signal === 'SIGKILL' }).toEqual({ errors: '', ended: true })
      }
      const lines = (await readFile(journal, 'utf8')).trim().split('\n')
      expect(lines.length).toBeGreaterThan(8)
      for (let at = 0; at < lines.length; at += 2) {
        const pid = lines[at]?.split(' ')[1]
        expect([lines[at], lines[at + 1]]).toEqual([`in ${pid}`, `out ${pid}`])
      }
    },
  )
})
