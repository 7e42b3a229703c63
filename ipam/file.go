package ipam

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// chunk is by how many slots the file grows ahead of need (256 KiB), so that a full disk is noticed while there are
// still slots to go on with. Where that much cannot be had, it grows by a page.
const (
	chunk       = 1024
	pageOfSlots = headerSize / slotSize
	lowWater    = chunk / 8
)

// disk is what the lease file needs of an open file. Tests make it fail.
type disk interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	// Extend makes room for size bytes in all; new ones read as zero.
	Extend(size int64) error
}

// osFile is the disk of production.
type osFile struct{ *os.File }

func (f osFile) Extend(to int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	from := info.Size()
	if from >= to {
		return nil
	}
	for {
		err = syscall.Fallocate(int(f.Fd()), 0, from, to-from)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		_, err = f.WriteAt(make([]byte, to-from), from)
	}
	return err
}

// openLocked opens or creates the file at path and locks it against other agents until it is closed. The lock is one
// on the open file, so the kernel lifts it when the process ends, however it ends.
func openLocked(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f, path); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func lock(f *os.File, path string) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("%w: stop it, or give this one another state directory", ErrLocked)
		case err != nil:
			return fmt.Errorf("lock: %w", err)
		}
		break
	}
	// Whoever held the lock before may have removed the file; a lock on a nameless file keeps nobody out.
	locked, err := f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !locked.Mode().IsRegular() {
		return fmt.Errorf("%w: it is not a regular file", ErrUnreadable)
	}
	if !os.SameFile(locked, named) {
		return fmt.Errorf("%w: it was replaced while being opened; try again", ErrLocked)
	}
	return nil
}

// slots is the part of the lease file behind its header.
type slots struct {
	disk     disk
	capacity int // slots that the file has room for
	buf      slotBuf
}

// readHeader returns fresh for a file that was never written to.
func (s *slots) readHeader() (h header, fresh bool, err error) {
	buf := make([]byte, headerSize)
	n, err := s.disk.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return header{}, false, err
	}
	if n == 0 {
		return header{}, true, nil
	}
	h, err = decodeHeader(buf[:n])
	return h, false, err
}

// writeHeader is synced: unlike a slot, a header torn by a power failure would make the file unreadable.
func (s *slots) writeHeader(h header) error {
	if _, err := s.disk.WriteAt(h.encode(), 0); err != nil {
		return err
	}
	return s.disk.Sync()
}

// each calls visit with every slot the file has, and learns the capacity. A cut-off tail reads as if zeroes followed.
func (s *slots) each(visit func(buf *slotBuf)) error {
	r := io.NewSectionReader(s.disk, headerSize, 1<<62)
	buf := make([]byte, chunk*slotSize)
	for {
		n, err := io.ReadFull(r, buf)
		clear(buf[n:])
		for off := 0; off < n; off += slotSize {
			visit((*slotBuf)(buf[off : off+slotSize]))
			s.capacity++
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (s *slots) write(i int32, e *entry) error {
	e.encode(&s.buf)
	_, err := s.disk.WriteAt(s.buf[:], headerSize+int64(i)*slotSize)
	return err
}

// extend makes room for n slots in all.
func (s *slots) extend(n int) error {
	if n <= s.capacity {
		return nil
	}
	if err := s.disk.Extend(headerSize + int64(n)*slotSize); err != nil {
		return err
	}
	s.capacity = n
	return nil
}
