package firewall

import (
	"errors"
	"log/slog"
	"os"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch sends to changed, of size 1, whenever anybody has changed anything in nftables. What was changed is left to read:
// the library's monitor would decode everybody's rules for it, and a host's firewall may have many, of kinds it does not know.
func watch(home *os.File, log *slog.Logger) (changed <-chan struct{}, stop func(), err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(home.Fd())})
	if err != nil {
		return nil, func() {}, err
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, func() {}, errors.Join(err, conn.Close())
	}
	heard, closing := make(chan struct{}, 1), make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			_, err := conn.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // events lost are an event
				select {
				case <-closing:
				default:
					log.Warn("changes of nftables are not heard of any more and are noticed later", "after", lookEvery, "err", err)
				}
				return
			}
			select {
			case heard <- struct{}{}:
			default: // it will look anyway
			}
		}
	})
	return heard, func() {
		close(closing)
		if err := conn.Close(); err != nil {
			log.Warn("watch on nftables not closed", "err", err)
		}
		reader.Wait()
	}, nil
}
