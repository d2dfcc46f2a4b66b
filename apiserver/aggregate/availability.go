package aggregate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/discovery"
	"github.com/skiff-k8s/skiff/apiserver/reach"
	"github.com/skiff-k8s/skiff/apiserver/rest"
	"github.com/skiff-k8s/skiff/guard"
)

const (
	// checkTime is how long an extension server may take to say that it is there.
	checkTime = 5 * time.Second
	// checkEvery is how often it is asked while nothing changes; when it does not
	// answer, sooner, in pauses that double from firstPause.
	checkEvery = 30 * time.Second
	firstPause = 50 * time.Millisecond
	// describeEvery is how often it is asked what it serves.
	describeEvery = time.Minute
	// attempts is how many of its addresses are tried at once.
	attempts = 5
)

// ask has the extension server asked soon.
func (e *extension) ask() {
	select {
	case e.asked <- struct{}{}:
	default: // it will be
	}
}

// run asks an extension server whether it is there when there is reason to and
// from time to time, and what it serves while it is. publish tells the
// documents.
func (e *extension) run(ctx context.Context, publish func()) {
	defer e.by.CloseIdleConnections()
	defer e.upgrades.CloseIdleConnections()
	var learning learning
	defer func() { learning.end() }()
	pause := firstPause
	for {
		condition, silent := e.check(ctx)
		if ctx.Err() != nil {
			return
		}
		up := condition.Status == apiregistrationv1.ConditionTrue
		if up {
			e.available.Store(true) // before anybody is told
		}
		if err := e.config.setCondition(ctx, e.object, condition); err != nil && ctx.Err() == nil {
			e.config.Log.ErrorContext(ctx, "status of an APIService", "name", e.name, "error", err)
		}
		switch {
		case up && !learning.on:
			learning.begin(ctx, "extension server of "+e.name, func(ctx context.Context) { e.learn(ctx, publish) })
		case !up:
			learning.end()
			if !e.discovered.Load().Stale {
				e.discovered.Store(&discovery.Remote{Stale: true})
				publish()
			}
		}
		wait := checkEvery
		if silent {
			wait, pause = pause, min(2*pause, checkEvery)
		} else {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-e.asked:
		case <-time.After(wait):
		}
	}
}

// learning is a goroutine that finds out what an extension server serves. It is
// apart from that which finds out whether the server is there, since documents
// may take long.
type learning struct {
	on      bool
	cancel  context.CancelFunc
	running guard.Group
}

func (l *learning) begin(ctx context.Context, part string, learn func(context.Context)) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.on = true
	l.running.Go(part, func() { learn(ctx) })
}

// end returns when nothing is learnt any more.
func (l *learning) end() {
	if !l.on {
		return
	}
	l.on = false
	l.cancel()
	l.running.Wait()
}

// learn asks the server what it serves, and how it describes that, from time to
// time until ctx ends.
func (e *extension) learn(ctx context.Context, publish func()) {
	pause := firstPause
	for {
		guard.Do("description of an extension server", func() { e.look(ctx, publish) })
		wait := describeEvery
		if e.discovered.Load().Stale {
			wait, pause = pause, min(2*pause, checkEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// look asks once. What is found out when ctx has ended is not told: it may be
// that nothing was.
func (e *extension) look(ctx context.Context, publish func()) {
	now := e.discovered.Load()
	next := e.describe(ctx, now)
	if ctx.Err() != nil {
		return
	}
	if !next.Equal(now) {
		e.discovered.Store(next)
		publish()
	}
	if next.Stale {
		return
	}
	before := e.described.Load()
	if next := e.openAPI(ctx, before); next != before && ctx.Err() == nil {
		e.described.Store(next)
		publish()
	}
}

// check finds out whether an extension server can be reached. silent is true if
// it does not answer as it should, which no event will tell the end of.
func (e *extension) check(ctx context.Context) (c apiregistrationv1.APIServiceCondition, silent bool) {
	c = e.lacks(ctx)
	if c.Reason != "" {
		return c, false
	}
	if err := e.answers(ctx); err != nil {
		return condition(apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck", "%v", err), true
	}
	return condition(apiregistrationv1.ConditionTrue, "Passed", "all checks passed"), false
}

// condition says so of an extension server. What it repeats of an answer is cut
// as in errors: a condition that is too large to be stored is not told.
func condition(status apiregistrationv1.ConditionStatus, reason, format string, args ...any) apiregistrationv1.APIServiceCondition {
	return apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: status, Reason: reason, Message: rest.Short(fmt.Sprintf(format, args...)), LastTransitionTime: metav1.Now(),
	}
}

// lacks is the condition that follows from what is missing on the way to the
// server; without a reason if nothing is.
func (e *extension) lacks(ctx context.Context) apiregistrationv1.APIServiceCondition {
	at := fmt.Sprintf("service/%s in %q", e.service.Name, e.service.Namespace)
	obj, err := e.config.Cluster.Get(ctx, e.config.Cluster.Resource("", "services"), e.service.Namespace, e.service.Name)
	switch {
	case apierrors.IsNotFound(err):
		return condition(apiregistrationv1.ConditionFalse, "ServiceNotFound", "%s is not present", at)
	case err != nil:
		return condition(apiregistrationv1.ConditionUnknown, "ServiceAccessError", "%s cannot be checked due to: %v", at, err)
	}
	service := obj.(*corev1.Service)
	if service.Spec.Type != corev1.ServiceTypeClusterIP {
		return apiregistrationv1.APIServiceCondition{} // whether it answers tells
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == *e.service.Port })
	if i < 0 {
		return condition(apiregistrationv1.ConditionFalse, "ServicePortError", "%s is not listening on port %d", at, *e.service.Port)
	}
	leads, err := reach.Slices(ctx, e.config.Cluster, service.Namespace, service.Name)
	switch port := service.Spec.Ports[i].Name; {
	case err != nil:
		return condition(apiregistrationv1.ConditionUnknown, "EndpointsAccessError", "%s cannot be checked due to: %v", at, err)
	case len(leads) == 0:
		return condition(apiregistrationv1.ConditionFalse, "EndpointsNotFound", "cannot find endpointslices for %s", at)
	case !slices.ContainsFunc(leads, func(s *discoveryv1.EndpointSlice) bool { return leadsSomewhere(s, port) }):
		return condition(apiregistrationv1.ConditionFalse, "MissingEndpoints", "endpointslices for %s have no addresses with port name %q", at, port)
	}
	return apiregistrationv1.APIServiceCondition{}
}

func leadsSomewhere(s *discoveryv1.EndpointSlice, port string) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return ptr.Deref(e.Conditions.Ready, true) }) &&
		slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool { return ptr.Deref(p.Name, "") == port && p.Port != nil })
}

// prober is who asks whether a server is there: one who may do all, so that
// the answer does not depend on rights.
var prober = &user.DefaultInfo{Name: "system:kube-aggregator", Groups: []string{user.SystemPrivilegedGroup}}

// answers tries some of the addresses of the server at once. One that answers
// is enough.
func (e *extension) answers(ctx context.Context) error {
	if e.trust != nil {
		return e.trust
	}
	addresses, err := reach.Addresses(ctx, e.config.Cluster, e.service.Namespace, e.service.Name, *e.service.Port)
	if err != nil {
		return err
	}
	addresses = addresses[:min(len(addresses), attempts)]
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	results := make(chan error, len(addresses))
	for _, address := range addresses {
		guard.Go("check of an extension server", func() {
			results <- guard.Call("check of an extension server", func() error { return e.answersAt(ctx, address) })
		})
	}
	for range addresses {
		if err = <-results; err == nil {
			return nil
		}
	}
	e.by.CloseIdleConnections() // they may lead nowhere
	return err
}

func (e *extension) answersAt(ctx context.Context, address string) error {
	at := "https://" + address + e.path()
	answer, err := e.get(ctx, at, "", prober)
	if err != nil {
		return fmt.Errorf("failing or missing response from %s: %w", at, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("failing or missing response from %s: bad status from %s: %d", at, at, answer.StatusCode)
	}
	return nil
}

// path is where the server describes the group version.
func (e *extension) path() string {
	if e.object.Spec.Group == "" {
		return "/api/" + e.object.Spec.Version
	}
	return "/apis/" + e.object.Spec.Group + "/" + e.object.Spec.Version
}

// get asks the server for a URL in the name of who, and follows no redirects.
func (e *extension) get(ctx context.Context, url, accept string, who user.Info) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	sign(r, who)
	client := http.Client{Transport: e.by, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return client.Do(r)
}

// mostDocument is how large a document about what a server serves may be, in
// bytes; that of all of Kubernetes has a hundredth of it.
const mostDocument = 8 << 20

var errTooLarge = errors.New("the document is larger than 8 MiB")

// read takes in a document of the server from one of its addresses.
func (e *extension) read(ctx context.Context, path, accept string, who user.Info) (body []byte, answer *http.Response, err error) {
	address, err := reach.Address(ctx, e.config.Cluster, e.service.Namespace, e.service.Name, *e.service.Port)
	if err != nil {
		return nil, nil, err
	}
	answer, err = e.get(ctx, "https://"+address+path, accept, who)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, mostDocument+1))
	if err == nil && len(body) > mostDocument {
		err = errTooLarge
	}
	return body, answer, err
}
