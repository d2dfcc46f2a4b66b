package scheduler

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// givenVolumes are the volumes that were given to claims while the informer had them as free still. Without them a pod with
// several claims, which each change of a volume wakes, would be given more than one for a claim.
type givenVolumes struct {
	mu    sync.Mutex
	given map[string]givenVolume // by name
}

// givenVolume is a volume as it was written, and the version that it was written over.
type givenVolume struct {
	over string
	pv   *corev1.PersistentVolume
}

// add notes that a volume was written.
func (g *givenVolumes) add(old, pv *corev1.PersistentVolume) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.given == nil {
		g.given = make(map[string]givenVolume)
	}
	g.given[pv.Name] = givenVolume{old.ResourceVersion, pv}
}

// known are the volumes that an informer lists, as far as they are known to be. What the informer has learned is forgotten.
func (g *givenVolumes) known(listed []*corev1.PersistentVolume) []*corev1.PersistentVolume {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.given) == 0 {
		return listed
	}
	behind := make(map[string]givenVolume)
	known := slices.Clone(listed)
	for i, pv := range known {
		if given, ok := g.given[pv.Name]; ok && given.over == pv.ResourceVersion {
			known[i], behind[pv.Name] = given.pv, given
		}
	}
	g.given = behind
	return known
}
