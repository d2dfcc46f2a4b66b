package dra

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/atomicfile"
)

// prepared is a claim that drivers were asked to prepare, for the pods that are to use it.
type prepared struct {
	Namespace, Name string
	UID             types.UID
	Pods            []types.UID
	// Drivers have devices of the claim.
	Drivers []string
	// Devices are what the drivers made of it, once Done.
	Devices []device
	Done    bool
}

// device is a device of a claim as a driver prepared it.
type device struct {
	Requests []string // that it is for; none: all
	CDI      []string // ids by which the runtime knows it
}

// state is kept on disk, so that whatever was prepared is unprepared, by this kubelet or one after it. Each change is
// on disk before it counts.
type state struct {
	file string

	mu     sync.Mutex
	claims map[types.NamespacedName]prepared
	locks  map[types.NamespacedName]*claimLock
}

func openState(file string) (*state, error) {
	s := &state{file: file, claims: make(map[types.NamespacedName]prepared), locks: make(map[types.NamespacedName]*claimLock)}
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the prepared devices: %w", err)
	}
	var list []prepared
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read the prepared devices from %s: %w", file, err)
	}
	for _, c := range list {
		s.claims[types.NamespacedName{Namespace: c.Namespace, Name: c.Name}] = c
	}
	return s, nil
}

// lock keeps others from a claim until unlock is called.
func (s *state) lock(claim types.NamespacedName) (unlock func()) {
	s.mu.Lock()
	l, ok := s.locks[claim]
	if !ok {
		l = new(claimLock)
		s.locks[claim] = l
	}
	l.users++
	s.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.locks, claim)
		}
	}
}

// claimLock is there as long as somebody has it or waits for it.
type claimLock struct {
	sync.Mutex
	users int
}

func (s *state) get(claim types.NamespacedName) (prepared, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.claims[claim]
	return c, ok
}

// of are the claims of a pod, all of them for the empty UID.
func (s *state) of(pod types.UID) []prepared {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []prepared
	for _, c := range s.claims {
		if pod == "" || slices.Contains(c.Pods, pod) {
			list = append(list, c)
		}
	}
	return list
}

// put replaces what is known of a claim, drop forgets it.
func (s *state) put(c prepared) error {
	return s.change(func() { s.claims[types.NamespacedName{Namespace: c.Namespace, Name: c.Name}] = c })
}

func (s *state) drop(claim types.NamespacedName) error {
	return s.change(func() { delete(s.claims, claim) })
}

func (s *state) change(do func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.claims
	s.claims = make(map[types.NamespacedName]prepared, len(before)+1)
	for key, c := range before {
		s.claims[key] = c
	}
	do()
	list := make([]prepared, 0, len(s.claims))
	for _, c := range s.claims {
		list = append(list, c)
	}
	data, err := json.Marshal(list)
	if err == nil {
		err = atomicfile.Write(s.file, data, 0o600)
	}
	if err != nil {
		s.claims = before
		return fmt.Errorf("checkpoint ResourceClaim state: %w", err)
	}
	return nil
}
