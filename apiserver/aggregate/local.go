package aggregate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/skiff-k8s/skiff/apiserver/discovery"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/guard"
)

// The label of APIServices that the server keeps. Those of built-in kinds are
// made once per start, and what people do to them then stays; those of custom
// resources follow the definitions.
const (
	managedLabel = "kube-aggregator.kubernetes.io/automanaged"
	onStart      = "onstart"
	always       = "true"
)

func managed(o *apiService) string {
	if o == nil {
		return ""
	}
	if m := o.Labels[managedLabel]; m == onStart || m == always {
		return m
	}
	return ""
}

// local are the APIServices that there are to be.
type local struct {
	poke chan struct{} // there is something to look at

	mu      sync.Mutex
	wanted  map[string]*apiService
	before  map[string]bool // names that were there when the server started
	settled map[string]bool // names that were in order once
}

func newLocal() local { return local{poke: make(chan struct{}, 1), settled: make(map[string]bool)} }

func (l *local) begin(there map[string]*apiService) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = make(map[string]bool, len(there))
	for name := range there {
		l.before[name] = true
	}
}

// serve takes in what is served.
func (l *local) serve(rows []*resource.Resource) {
	wanted := make(map[string]*apiService)
	for _, r := range rows {
		if name := r.Version + "." + r.Group; wanted[name] == nil && r.Group != apiregistrationv1.GroupName && !r.Yields {
			wanted[name] = describe(r, name)
		}
	}
	l.mu.Lock()
	l.wanted = wanted
	l.mu.Unlock()
	l.wake()
}

func describe(r *resource.Resource, name string) *apiService {
	label := onStart
	if r.Custom != nil {
		label = always
	}
	p := discovery.PriorityOf(r.Group, r.Version)
	return &apiService{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{managedLabel: label}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: r.Group, Version: r.Version, GroupPriorityMinimum: p.Group, VersionPriority: p.Version,
		},
	}
}

func (l *local) wake() {
	select {
	case l.poke <- struct{}{}:
	default: // it is known already
	}
}

// keep registers what is served whenever that or an APIService has changed.
func (s *Services) keep(ctx context.Context) {
	const pause = time.Second
	for {
		var again <-chan time.Time
		if err := s.register(ctx); err != nil && ctx.Err() == nil {
			s.config.Log.ErrorContext(ctx, "APIServices of what is served here", "error", err)
			again = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.local.poke:
		case <-again:
		}
	}
}

// register makes the APIServices of what is served here, and takes away those
// of what is served no longer.
func (s *Services) register(ctx context.Context) error {
	const atOnce = 64 // a backend commits them in groups
	there := s.services()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, step := range s.local.steps(there) {
		group.Go(guard.Try("APIServices", func() error {
			if err := s.do(ctx, step); err != nil && !moved(err) {
				return fmt.Errorf("%s: %w", step.name, err)
			}
			s.local.done(step.name)
			return nil
		}))
	}
	return group.Wait()
}

// moved reports whether a write failed because the object is another by now, of
// which an event tells.
func moved(err error) bool {
	return apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.IsConflict(err)
}

// step is what is to be done with one APIService.
type step struct {
	name       string
	action     action
	want, have *apiService
}

type action int

const (
	leave action = iota
	create
	replace
	remove
	say // that it is available
)

// steps are what is to be done, given the APIServices that are there.
func (l *local) steps(there map[string]*apiService) []step {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := maps.Clone(there)
	maps.Copy(names, l.wanted)
	var steps []step
	for name := range names {
		s := step{name, leave, l.wanted[name], there[name]}
		if s.action = decide(s.want, s.have, l.before[name], l.settled[name]); s.action != leave {
			steps = append(steps, s)
			continue
		}
		l.settled[name] = true
	}
	maps.DeleteFunc(l.settled, func(name string, _ bool) bool { _, known := names[name]; return !known })
	return steps
}

// decide says what becomes of an APIService that is to be as want and is as
// have, either of which may be missing. before: it was there when the server
// started; settled: it was in order once since.
func decide(want, have *apiService, before, settled bool) action {
	once := managed(have) == onStart && (!before || settled)
	switch {
	case have == nil && (want == nil || managed(want) == onStart && settled):
		return leave
	case have == nil:
		return create
	case managed(have) == "" || once || managed(want) == onStart && settled:
	case want == nil:
		return remove
	case !equality.Semantic.DeepEqual(have.Spec, want.Spec):
		return replace
	}
	if have.Spec.Service == nil && !saysLocal(have) {
		return say
	}
	return leave
}

func saysLocal(o *apiService) bool {
	c := helper.GetAPIServiceConditionByType(o, apiregistrationv1.Available)
	want := helper.NewLocalAvailableAPIServiceCondition()
	return c != nil && c.Status == want.Status && c.Reason == want.Reason && c.Message == want.Message
}

func (l *local) done(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settled[name] = true
}

func (s *Services) do(ctx context.Context, t step) error {
	switch t.action {
	case create:
		_, err := s.config.Cluster.Create(ctx, s.row, t.want)
		return err
	case remove:
		uid := t.have.UID
		_, err := s.config.Cluster.Delete(ctx, s.row, "", t.name, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		return err
	case replace:
		_, err := s.config.Cluster.Update(ctx, s.row, "", t.name, false, func(obj resource.Object) error {
			o := obj.(*apiService)
			if o.ResourceVersion != t.have.ResourceVersion {
				return errMoved
			}
			o.Spec = *t.want.Spec.DeepCopy()
			return nil
		})
		return ignoreMoved(err)
	}
	return s.config.setCondition(ctx, t.have, helper.NewLocalAvailableAPIServiceCondition())
}

// errMoved says that an APIService is another than it was.
var errMoved = errors.New("the APIService has changed")

func ignoreMoved(err error) error {
	if errors.Is(err, errMoved) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// setCondition writes a condition of an APIService, unless that names another
// server by now.
func (c Config) setCondition(ctx context.Context, o *apiService, condition apiregistrationv1.APIServiceCondition) error {
	row := c.Cluster.Resource(apiregistrationv1.GroupName, "apiservices")
	_, err := c.Cluster.Update(ctx, row, "", o.Name, false, func(obj resource.Object) error {
		now := obj.(*apiService)
		if !sameServer(o, now) {
			return errMoved
		}
		live := now.DeepCopy()
		helper.SetAPIServiceCondition(now, condition)
		if equality.Semantic.DeepEqual(live.Status, now.Status) {
			return errMoved // somebody said so already
		}
		return c.Own(live, now)
	})
	return ignoreMoved(err)
}
