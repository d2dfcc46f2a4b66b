package garbage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/guard/clientgo"
)

const (
	// settleTime is how long after a change of CRDs or APIServices discovery is read: they come in series, and
	// take a moment to be served.
	settleTime = time.Second
	// rereadTime is how long after that it is read once more, for what took longer.
	rereadTime = 10 * time.Second
	// syncTimeout is how long work waits for the monitors of a group that have not seen all there is: one broken
	// extension must not stop all deletions.
	syncTimeout = 30 * time.Second
	// syncPause is when to look again whether they have.
	syncPause = 100 * time.Millisecond
)

// ignored are resources that have no owners and come and go in masses.
var ignored = map[schema.GroupResource]bool{
	{Group: "", Resource: "events"}:              true,
	{Group: "events.k8s.io", Resource: "events"}: true,
}

// extending are the resources whose change adds or removes resources.
var extending = map[schema.GroupResource]bool{
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}: true,
	{Group: "apiregistration.k8s.io", Resource: "apiservices"}:             true,
}

// monitors watch every resource that can be listed, watched and deleted, and follow discovery.
type monitors struct {
	config  Config
	graph   *graph
	counter *counter
	changed chan struct{} // has a token when discovery may have changed
	first   chan struct{} // closed when the monitors of the first discovery are running, which are initial
	initial []*monitor
	begun   atomic.Bool // they have been waited for

	mu    sync.Mutex
	all   map[schema.GroupVersionResource]*monitor
	kinds map[schema.GroupVersionKind]served
	// patience is until when the monitors of a group are waited for that have not synced. It is not renewed by
	// monitors that are stopped and started: a server that comes and goes is waited for once.
	patience map[string]time.Time
}

// served is a resource as discovery has it.
type served struct {
	resource   schema.GroupVersionResource
	kind       schema.GroupVersionKind
	namespaced bool
}

type monitor struct {
	synced cache.InformerSynced
	stop   func()
}

func newMonitors(config Config, graph *graph) *monitors {
	return &monitors{
		config: config, graph: graph, counter: &counter{numbers: map[counted]int{}},
		changed:  make(chan struct{}, 1),
		first:    make(chan struct{}),
		all:      map[schema.GroupVersionResource]*monitor{},
		kinds:    map[schema.GroupVersionKind]served{},
		patience: map[string]time.Time{},
	}
}

// registerShared makes the factory know the shared informers, before it is started.
func (m *monitors) registerShared() error {
	for _, resource := range m.config.Shared {
		informer, err := m.config.Informers.ForResource(resource)
		if err != nil {
			return fmt.Errorf("shared informer: %w", err)
		}
		informer.Informer()
	}
	return nil
}

// run follows discovery until ctx is done, and stops all monitors then.
func (m *monitors) run(ctx context.Context) {
	defer m.stopAll()
	started, changed := false, false
	retry := time.Duration(0)
	for {
		wait := m.config.RereadEvery
		if changed {
			wait = rereadTime
		}
		if err := m.refresh(); err != nil && ctx.Err() == nil {
			retry = min(max(retry*2, time.Second), time.Minute)
			wait = retry
			slog.Warn("garbage collector: discovery incomplete", "error", err)
		} else {
			retry = 0
		}
		if !started && m.count() > 0 {
			started = true
			m.mu.Lock()
			m.initial = slices.Collect(maps.Values(m.all))
			m.mu.Unlock()
			close(m.first)
		}
		if changed = m.waitForChange(ctx, wait); ctx.Err() != nil {
			return
		}
	}
}

// waitForChange returns when it is time to read discovery again, at the latest after wait, or when ctx is done.
func (m *monitors) waitForChange(ctx context.Context, wait time.Duration) (changed bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-m.changed:
		changed = true
		select {
		case <-ctx.Done():
		case <-time.After(settleTime):
		}
	}
	return changed
}

// noteChange asks for discovery to be read.
func (m *monitors) noteChange() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *monitors) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.all)
}

// waitFirst returns when the monitors of the first discovery have seen all there is, or have had time enough to.
func (m *monitors) waitFirst(ctx context.Context) error {
	if m.begun.Load() {
		return nil
	}
	select {
	case <-m.first:
	case <-ctx.Done():
		return ctx.Err()
	}
	enough := time.Now().Add(syncTimeout)
	for time.Now().Before(enough) && slices.ContainsFunc(m.initial, func(i *monitor) bool { return !i.synced() }) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(syncPause):
		}
	}
	m.begun.Store(true)
	return nil
}

// allSynced tells whether every monitor has seen all there is, or has had time enough to.
func (m *monitors) allSynced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for resource, monitor := range m.all {
		if !monitor.synced() && time.Now().Before(m.patience[resource.Group]) {
			return false
		}
	}
	return true
}

// synced tells whether a resource is watched and all there is of it was seen.
func (m *monitors) synced(resource schema.GroupResource) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for watched, monitor := range m.all {
		if watched.GroupResource() == resource {
			return monitor.synced()
		}
	}
	return false
}

// renewPatience forgets the groups whose monitors have synced, and those that have been without any for long.
func (m *monitors) renewPatience() {
	waiting := make(map[string]bool)
	for resource, monitor := range m.all {
		waiting[resource.Group] = waiting[resource.Group] || !monitor.synced()
	}
	for group, until := range m.patience {
		waits, watched := waiting[group]
		if watched && !waits || !watched && time.Since(until) > m.config.RereadEvery {
			delete(m.patience, group)
		}
	}
}

// resourceOf finds the resource of a kind.
func (m *monitors) resourceOf(apiVersion, kind string) (resource schema.GroupVersionResource, namespaced bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.kinds[schema.FromAPIVersionAndKind(apiVersion, kind)]
	if !ok {
		return resource, false, fmt.Errorf("no resource of kind %s in %s is served", kind, apiVersion)
	}
	return s.resource, s.namespaced, nil
}

// refresh reads discovery and starts and stops monitors to match. Where a group could not be read, its monitors
// stay: it may be back soon.
func (m *monitors) refresh() error {
	groups, lists, err := m.config.Discovery.ServerGroupsAndResources()
	var partial *discovery.ErrGroupDiscoveryFailed
	if err != nil && !errors.As(err, &partial) {
		return err
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.renewPatience()
	for kind := range m.kinds {
		if !failedGroup(partial, kind.GroupVersion()) {
			delete(m.kinds, kind)
		}
	}
	for _, s := range servedIn(lists) {
		m.kinds[s.kind] = s
	}
	wanted := map[schema.GroupVersionResource]served{}
	for _, s := range servedIn(preferred(groups, lists), "list", "watch", "delete") {
		if !ignored[s.resource.GroupResource()] {
			wanted[s.resource] = s
		}
	}
	for resource, monitor := range m.all {
		_, keep := wanted[resource]
		if !keep && !failedGroup(partial, resource.GroupVersion()) {
			monitor.stop()
			delete(m.all, resource)
			m.graph.forget(resource)
		}
	}
	for resource, s := range wanted {
		if m.all[resource] == nil {
			started, startErr := m.start(s)
			if startErr != nil {
				return startErr
			}
			m.all[resource] = started
			if _, known := m.patience[resource.Group]; !known {
				m.patience[resource.Group] = time.Now().Add(syncTimeout)
			}
		}
	}
	return err
}

// preferred are of each resource the version that its group prefers, or the first of those that have it.
func preferred(groups []*metav1.APIGroup, lists []*metav1.APIResourceList) (all []*metav1.APIResourceList) {
	of := make(map[string]*metav1.APIResourceList, len(lists))
	for _, list := range lists {
		of[list.GroupVersion] = list
	}
	for _, group := range groups {
		taken := make(map[string]bool)
		for _, version := range append([]metav1.GroupVersionForDiscovery{group.PreferredVersion}, group.Versions...) {
			list := of[version.GroupVersion]
			if list == nil {
				continue
			}
			chosen := &metav1.APIResourceList{GroupVersion: list.GroupVersion}
			for _, r := range list.APIResources {
				if !taken[r.Name] {
					chosen.APIResources = append(chosen.APIResources, r)
				}
			}
			for _, r := range chosen.APIResources {
				taken[r.Name] = true
			}
			all = append(all, chosen)
		}
	}
	return all
}

func failedGroup(partial *discovery.ErrGroupDiscoveryFailed, gv schema.GroupVersion) bool {
	if partial == nil {
		return false
	}
	_, failed := partial.Groups[gv]
	return failed
}

// servedIn lists the resources, without subresources, that have all the verbs.
func servedIn(lists []*metav1.APIResourceList, verbs ...string) []served {
	var all []served
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			lacks := slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(r.Verbs, v) })
			if strings.Contains(r.Name, "/") || lacks {
				continue
			}
			all = append(all, served{gv.WithResource(r.Name), gv.WithKind(r.Kind), r.Namespaced})
		}
	}
	return all
}

// start begins to watch a resource: through the factory's informer if that has one, else with one of its own
// that keeps nothing but what the graph needs.
func (m *monitors) start(s served) (*monitor, error) {
	informer, run := m.informerOf(s.resource)
	registration, err := informer.AddEventHandler(clientgo.Handler("garbage collector's events", m.handler(s)))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", s.resource, err)
	}
	done := make(chan struct{})
	var running guard.Group
	if run {
		running.Go("garbage collector's informer", func() { informer.Run(done) })
	}
	return &monitor{
		synced: registration.HasSynced,
		stop: func() {
			_ = informer.RemoveEventHandler(registration)
			close(done)
			running.Wait()
		},
	}, nil
}

func (m *monitors) informerOf(resource schema.GroupVersionResource) (informer cache.SharedIndexInformer, run bool) {
	if slices.Contains(m.config.Shared, resource) {
		if shared, err := m.config.Informers.ForResource(resource); err == nil {
			return shared.Informer(), false
		}
	}
	own := metadatainformer.NewFilteredMetadataInformer(m.config.Metadata, resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	_ = own.SetTransform(slim) // fails only for an informer that runs
	return own, true
}

// slim drops what the graph does not need of an object that was just received.
func slim(obj any) (any, error) {
	if o, ok := obj.(*metav1.PartialObjectMetadata); ok {
		o.ManagedFields, o.Labels, o.Annotations = nil, nil, nil
	}
	return obj, nil
}

func (m *monitors) handler(s served) cache.ResourceEventHandler {
	put := func(obj any) {
		object, err := meta.Accessor(obj)
		if err != nil {
			return
		}
		m.graph.put(&node{
			identity: identity{s.resource, s.kind.GroupKind(), object.GetNamespace(), object.GetName(), object.GetUID()},
			owners:   object.GetOwnerReferences(),
			phase:    phaseOf(object),
		})
	}
	resource := s.resource.GroupResource()
	extends := extending[resource]
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			put(obj)
			if object, err := meta.Accessor(obj); err == nil {
				m.counter.add(resource, object.GetNamespace(), 1)
			}
			if extends {
				m.noteChange()
			}
		},
		UpdateFunc: func(before, obj any) {
			old, errOld := meta.Accessor(before)
			now, err := meta.Accessor(obj)
			if errOld == nil && err == nil && old.GetUID() != now.GetUID() {
				m.graph.remove(old.GetUID())
			}
			put(obj)
			if extends {
				m.noteChange()
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if object, err := meta.Accessor(obj); err == nil {
				m.graph.remove(object.GetUID())
				m.counter.add(resource, object.GetNamespace(), -1)
			}
			if extends {
				m.noteChange()
			}
		},
	}
}

func (m *monitors) stopAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, monitor := range m.all {
		monitor.stop()
	}
	clear(m.all)
}
