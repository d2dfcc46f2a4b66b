package alloc

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// portsKey is where all servers of a cluster, kube-apiservers among them, note which node ports are taken: a bit each
// in a RangeAllocation, which no API shows.
const portsKey = "/registry/ranges/servicenodeports"

// anyone owns a port that is taken: the note does not say who does.
var anyone = Owner{Name: "anyone"}

// portClaims are the bits of the note.
type portClaims struct {
	backend backend.Backend
	ports   PortRange
	// held are the ports that Services have, from which the note is made when there is none or it is of another range.
	held func(ctx context.Context) (map[int]Owner, error)
	// busy holds one while a request of this process changes the note, so that they do not get into each other's way.
	busy chan struct{}
}

func newPortClaims(b backend.Backend, ports PortRange, held func(context.Context) (map[int]Owner, error)) *portClaims {
	return &portClaims{backend: b, ports: ports, held: held, busy: make(chan struct{}, 1)}
}

func (c *portClaims) Take(ctx context.Context, value int, _ Owner) error {
	return c.change(ctx, func(bits *big.Int) error {
		if bits.Bit(value) == 1 {
			return errTaken
		}
		bits.SetBit(bits, value, 1)
		return nil
	})
}

var errFree = errors.New("already free")

func (c *portClaims) Free(ctx context.Context, value int, _ Owner) error {
	err := c.change(ctx, func(bits *big.Int) error {
		if bits.Bit(value) == 0 {
			return errFree
		}
		bits.SetBit(bits, value, 0)
		return nil
	})
	if errors.Is(err, errFree) {
		return nil
	}
	return err
}

func (c *portClaims) All(ctx context.Context) (map[int]Owner, error) {
	bits, _, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[int]Owner)
	for value := range bits.BitLen() {
		if bits.Bit(value) == 1 {
			all[value] = anyone
		}
	}
	return all, nil
}

// change stores what f makes of the bits, unless it fails.
func (c *portClaims) change(ctx context.Context, f func(bits *big.Int) error) error {
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		bits, revision, err := c.read(ctx)
		if err != nil {
			return err
		}
		if err := f(bits); err != nil {
			return err
		}
		value, err := store.EncodeNote(corev1.SchemeGroupVersion.WithKind("RangeAllocation"), &corev1.RangeAllocation{Range: c.rangeText(), Data: bits.Bytes()})
		if err != nil {
			return err
		}
		if _, err = c.backend.Put(ctx, portsKey, value, revision, 0); !errors.Is(err, backend.ErrConflict) {
			return err
		}
	}
}

func (c *portClaims) read(ctx context.Context) (bits *big.Int, revision int64, err error) {
	entry, _, err := c.backend.Get(ctx, portsKey)
	if err != nil && !errors.Is(err, backend.ErrNotFound) {
		return nil, 0, fmt.Errorf("read node ports: %w", err)
	}
	if err == nil {
		var note corev1.RangeAllocation
		if err := store.DecodeNote(entry.Value, &note); err != nil {
			return nil, 0, fmt.Errorf("read node ports: %w", err)
		}
		if note.Range == c.rangeText() {
			return new(big.Int).SetBytes(note.Data), entry.Revision, nil
		}
	}
	held, err := c.held(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("list services: %w", err)
	}
	bits = new(big.Int)
	for value := range held {
		bits.SetBit(bits, value, 1)
	}
	return bits, entry.Revision, nil
}

// firstPorts is where Skiff once noted each port under a key of its own.
const firstPorts = "/skiff/nodeports/"

// dropFirst deletes the notes of that time. The Services tell what is taken.
func (c *portClaims) dropFirst(ctx context.Context) error {
	page, err := c.backend.List(ctx, firstPorts, "", 0, 0)
	if err != nil {
		return err
	}
	for _, e := range page.Entries {
		if _, err := c.backend.Delete(ctx, e.Key, e.Revision); err != nil && !errors.Is(err, backend.ErrConflict) {
			return err
		}
	}
	return nil
}

func (c *portClaims) rangeText() string { return fmt.Sprintf("%d-%d", c.ports.First, c.ports.Last) }
