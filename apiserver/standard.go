package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/policy"
	"github.com/skiff-k8s/skiff/apiserver/admission/webhook"
	"github.com/skiff-k8s/skiff/apiserver/aggregate"
	"github.com/skiff-k8s/skiff/apiserver/alloc"
	"github.com/skiff-k8s/skiff/apiserver/audit"
	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/authz"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/builtin"
	"github.com/skiff-k8s/skiff/apiserver/connect"
	"github.com/skiff-k8s/skiff/apiserver/custom"
	"github.com/skiff-k8s/skiff/apiserver/debug"
	"github.com/skiff-k8s/skiff/apiserver/discovery"
	"github.com/skiff-k8s/skiff/apiserver/fairness"
	"github.com/skiff-k8s/skiff/apiserver/features"
	"github.com/skiff-k8s/skiff/apiserver/health"
	"github.com/skiff-k8s/skiff/apiserver/maintain"
	"github.com/skiff-k8s/skiff/apiserver/managedfields"
	"github.com/skiff-k8s/skiff/apiserver/openapi"
	"github.com/skiff-k8s/skiff/apiserver/reach"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/rest"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
	"github.com/skiff-k8s/skiff/apiserver/usage"
	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
)

// Options of Standard. Backend, ClientCA, ServiceAccountKey and Advertise are
// required.
type Options struct {
	Settings
	Backend backend.Backend
	// ClientCA, in PEM, signs the certificates of users and of kubelets.
	ClientCA []byte
	// ClientCAFile and FrontProxyCAFile, if not empty, are read in place of ClientCA and FrontProxyCA, and again when they change.
	ClientCAFile, FrontProxyCAFile string
	// FrontProxyCA, in PEM, signs the certificates of proxies that may say on
	// whose behalf they ask, FrontProxyNames are the common names they may have;
	// none: there are no such proxies, or they may have any name.
	FrontProxyCA    []byte
	FrontProxyNames []string
	// ServiceAccountKey, in PEM, signs service account tokens (RSA or ECDSA).
	ServiceAccountKey []byte
	// Issuer of service account tokens where Settings have none; empty means
	// https://kubernetes.default.svc.cluster.local.
	Issuer string
	// KubeletClient is the certificate to show to kubelets, asked for with each
	// connection; nil: none.
	KubeletClient func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// FrontProxyClient is the certificate to show to extension servers, signed by
	// FrontProxyCA, by which they believe who asks; nil: none.
	FrontProxyClient func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// Dial reaches nodes and pods; nil: a net.Dialer.
	Dial reach.Dial
	// StaticTokens are users by bearer token.
	StaticTokens map[string]user.Info
	// ServiceCIDRs are the ranges of service addresses, the primary family's first;
	// none means 10.96.0.0/16.
	ServiceCIDRs family.Ranges
	// NodePorts is the range of node ports; zero means 30000 to 32767.
	NodePorts alloc.PortRange
	// Advertise is where pods and other machines reach this server. It is of the
	// primary family, or of the loopback.
	Advertise netip.AddrPort
	// Seldom is how many times more seldom than usual that happens which happens by the clock alone: bookmarks, looks at
	// whether the first objects are there, ends of watches that components in this process have. 0 means once. It is for
	// tests in which days pass.
	Seldom int
	// Components probe the parts of the control plane that run in this process, by the name ComponentStatuses have for
	// them: controller-manager and scheduler. One that is missing is judged by the lease of its leader.
	Components map[string]func(ctx context.Context) error
	// Changed is told what differs of objects of the cache that somebody has
	// changed: see store.Config.
	Changed func(difference string)
	// Log gets what operators need to know; nil means slog.Default().
	Log *slog.Logger
}

// Standard makes the server of the product: all built-in kinds, with
// authentication, authorization and admission, and the objects every cluster
// has. It is ready when Standard returns, and works until ctx ends. It must be
// closed, before the backend is.
func Standard(ctx context.Context, o Options) (*Server, error) {
	guard.Go("schemas", managedfields.Prepare) // the first objects need them, what comes before does not
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if err := o.Limits.validate(); err != nil {
		return nil, err
	}
	services, err := alloc.New(alloc.Config{Backend: o.Backend, CIDRs: o.ServiceCIDRs, Ports: o.NodePorts})
	if err != nil {
		return nil, err
	}
	if a := o.Advertise.Addr(); a.IsValid() && !a.IsLoopback() && family.Of(a) != services.CIDRs().Families()[0] {
		return nil, fmt.Errorf("service IP family %q must match public address family %q", services.CIDRs().Families()[0], family.Of(a))
	}
	registry := prometheus.NewRegistry()
	gates, err := o.Features.Gates()
	if err != nil {
		return nil, err
	}
	tokens, err := o.tokens(registry)
	if err != nil {
		return nil, err
	}
	users, err := o.users(tokens, gates, registry)
	if err != nil {
		return nil, err
	}
	rights, err := o.rights(registry)
	if err != nil {
		return nil, err
	}
	connections := o.connections(rights)
	used := usage.New(usage.Config{Kubelet: connections.GetKubelet, Log: o.Log})
	var s *Server
	hooks := webhook.New(webhook.Config{Dial: o.Dial, Authorizer: rights, Metrics: registry, Log: o.Log,
		Served:  func() []*resource.Resource { return s.Resources() },
		Changed: func(ctx context.Context, r *resource.Resource) (int64, error) { return s.store.Changed(ctx, r) }})
	policies := policy.New(policy.Config{Authorizer: rights, Metrics: registry,
		Changed: func(ctx context.Context, r *resource.Resource) (int64, error) { return s.store.Changed(ctx, r) },
		Served:  func() []*resource.Resource { return s.Resources() }, Kind: func(k schema.GroupVersionKind) *resource.Resource { return s.kind(k) }})
	chain, err := admission.Standard(admission.Config{Rights: rights, Metrics: registry, Choice: o.Admission, Features: gates,
		Served:   func() []*resource.Resource { return s.Resources() },
		Mutating: []admission.Plugin{policies.Mutating(), hooks.Mutating()}, Validating: []admission.Plugin{policies.Validating(), hooks.Validating()}})
	if err != nil {
		return nil, err
	}
	rows := builtin.Resources(builtin.Deps{Services: services, Tokens: users.Tokens(), Audiences: tokens.Audiences(), Issuer: tokens,
		Authorizer: rights, Components: o.components(func() *Server { return s }), Usage: used})
	hides, err := o.Features.Hides(rows)
	if err != nil {
		return nil, err
	}
	documents, descriptions, extensions := discovery.New(o.Advertise.String()), openapi.New(), aggregate.New()
	registry.MustRegister(gates, guard.Panics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	o.Audit.Metrics, o.Audit.Log = registry, o.Log
	written, err := audit.Open(o.Audit)
	if err != nil {
		return nil, err
	}
	o.Tracing.ServerID, o.Tracing.Log = o.Advertise.String(), o.Log
	traces, err := tracing.Open(ctx, o.Tracing)
	if err != nil {
		return nil, errors.Join(err, written.Close(ctx))
	}
	o.Debug = o.pages(gates)
	ctx, end := context.WithCancel(ctx)
	keys, err := o.encryption(ctx, registry)
	if err != nil {
		end()
		return nil, errors.Join(err, written.Close(ctx), traces.Close(ctx))
	}
	s, err = New(ctx, Config{
		Backend: o.Backend, Encryption: keys.store(), Audit: written, Tracing: traces, Changed: o.Changed,
		Resources: rows, Hides: hides, NoWatchLists: !gates.Enabled(features.WatchList), OneImpersonation: !gates.Enabled(features.ConstrainedImpersonation),
		Authenticator: authn.New(users.Config),
		Authorizer:    rights,
		Admission:     chain,
		Connect: func(w http.ResponseWriter, r *http.Request, c rest.Connection) error {
			return connections.ServeConnect(w, r, connect.Target(c))
		},
		Other:      mux,
		Limits:     o.Limits,
		Seldom:     o.Seldom,
		Extensions: extensions.Handler,
		Documents:  []Document{documents, descriptions, extensions},
		Parts:      append([]Part{tokens, services, connections, hooks, used}, users.parts()...),
		Metrics:    registry,
		Log:        o.Log,
	})
	if err != nil {
		keys.close()
		end()
		return nil, errors.Join(err, written.Close(ctx), traces.Close(ctx))
	}
	s.end = end
	keys.run(ctx, s)
	for _, path := range []string{"/api", "/api/", "/apis", "/apis/"} {
		mux.Handle(path, documents)
	}
	fixed := map[string]http.Handler{
		openapi.PathV2: descriptions, openapi.PathV3: descriptions, openapi.PathV3 + "/": descriptions,
		authn.OpenIDConfigurationPath: tokens.OpenIDConfiguration(o.Advertise.String()), authn.KeysPath: tokens.Keys(),
	}
	mux.Handle("/skiff/", maintain.Handler(maintain.Config{Backend: o.Backend, Store: s.store, Log: o.Log}))
	for path, handler := range fixed {
		mux.Handle(path, handler)
	}
	paths := func() []string {
		return slices.Concat(slices.AppendSeq(documents.Paths(), maps.Keys(fixed)), o.Debug.Listed())
	}
	o.Debug.Paths = health.Register(mux, health.Config{Healthy: keys.checks(), Live: s.liveChecks(), Ready: s.readyChecks(keys.checks()), Metrics: withLibraries(registry), Paths: paths})
	debug.Register(mux, o.Debug)
	s.fairness.Register(mux)
	s.follow(ctx, "service claims", services.Run)
	s.follow(ctx, "usage of nodes", used.Run)
	s.follow(ctx, "token issuers", users.issuers.Run)
	if err := s.begin(ctx, rights, o.objects(s, services, users), o.dial()); err != nil {
		s.Close()
		return nil, err
	}
	if err := extensions.Load(ctx, aggregate.Config{
		Source: s.store, Cluster: s.Cluster(), Own: s.ownStatus(apiregistrationv1.GroupName, "apiservices"),
		Dial: o.dial(), Certificate: o.FrontProxyClient, Discovery: documents.PublishServices, OpenAPI: descriptions.PublishExtensions, Metrics: registry, Log: o.Log,
	}); err != nil {
		s.Close()
		return nil, fmt.Errorf("load the APIServices: %w", err)
	}
	s.follow(ctx, "aggregation", extensions.Run)
	return s, nil
}

// begin makes the first objects and starts what follows the store.
func (s *Server) begin(ctx context.Context, rights *authz.Authorizer, objects bootstrap.Config, dial reach.Dial) error {
	if err := bootstrap.Ensure(ctx, objects); err != nil {
		return fmt.Errorf("make the first objects: %w", err)
	}
	if err := rights.Load(ctx, s.store, s.Cluster().Resource); err != nil {
		return fmt.Errorf("load the roles: %w", err)
	}
	s.follow(ctx, "authorization", func(ctx context.Context) error { return rights.Run(ctx) })
	s.follow(ctx, "priority and fairness", func(ctx context.Context) error {
		return s.fairness.Run(ctx, fairness.Objects{Source: s.store, Cluster: s.Cluster(), Log: s.config.Log,
			Apply: func(ctx context.Context, row *resource.Resource, live resource.Object, status *unstructured.Unstructured) (resource.Object, error) {
				return s.rest.Fields.Apply(ctx, row, "status", live, status, "api-priority-and-fairness-config-consumer-v1", true)
			}})
	})
	definitions := custom.NewDefinitions(custom.Config{
		Source: s.store, Cluster: s.Cluster(), Builtin: s.config.Resources, Log: s.config.Log,
		Serve: func(ctx context.Context, rows, unnamed []*resource.Resource) error {
			return s.SetResources(ctx, slices.Concat(s.config.Resources, rows), unnamed...)
		},
		Own: s.ownStatus(apiextensionsv1.GroupName, "customresourcedefinitions"), Dial: dial,
	})
	if err := definitions.Load(ctx); err != nil {
		return fmt.Errorf("load the custom resources: %w", err)
	}
	s.follow(ctx, "custom resources", definitions.Run)
	s.follow(ctx, "bootstrap", func(ctx context.Context) error { return bootstrap.Run(ctx, objects) })
	return nil
}

// ownStatus records in an object of a kind, changed from live to obj, that the
// fields of its status that changed are the server's.
func (s *Server) ownStatus(group, plural string) func(live, obj resource.Object) error {
	return func(live, obj resource.Object) error {
		return s.rest.Fields.Update(s.stopping, s.Cluster().Resource(group, plural), "status", live, obj, "kube-apiserver")
	}
}

// follow runs a part of the server until ctx ends.
func (s *Server) follow(ctx context.Context, part string, run func(context.Context) error) {
	s.parts.Go(part, func() {
		if err := guard.Keep(ctx, part, run); err != nil && !errors.Is(err, context.Canceled) {
			s.ended.Store(&part)
			s.config.Log.ErrorContext(ctx, "part of the server ended", "part", part, "error", err)
		}
	})
}

// dial reaches nodes and pods.
func (o Options) dial() reach.Dial {
	if o.Dial != nil {
		return o.Dial
	}
	return (&net.Dialer{}).DialContext
}

// objects are what must exist in a cluster of these options.
func (o Options) objects(s *Server, services *alloc.Services, u users) bootstrap.Config {
	c := bootstrap.Config{
		Cluster: s.Cluster(), Backend: o.Backend, Advertise: o.Advertise, ServiceCIDRs: services.CIDRs(), ServiceIP: services.First(),
		ClientCA: u.ClientCAs.PEM, FrontProxyNames: o.FrontProxyNames, Seldom: o.Seldom,
	}
	if u.FrontProxy != nil {
		c.FrontProxyCA = u.FrontProxy.CAs.PEM
	}
	return c
}

// pages are those of Debug that gates let be.
func (o Options) pages(gates features.Gates) debug.Config {
	c := o.Debug
	c.NoStatus = !gates.Enabled(features.ComponentStatusz)
	if !gates.Enabled(features.ComponentFlagz) {
		c.Flags = nil
	}
	return c
}

func (o Options) rights(registry prometheus.Registerer) (*authz.Authorizer, error) {
	c := o.Authorization
	c.NodeRules, c.ServerID, c.Metrics, c.Log = bootstrap.NodeRules(), o.Advertise.String(), registry, o.Log
	return authz.Open(c)
}

func (o Options) connections(rights *authz.Authorizer) *connect.Handler {
	c := connect.Config{Dial: o.Dial, Authorizer: rights, WriteError: rest.WriteError}
	// Kubelets make their serving certificates themselves, as upstream's do
	// without --kubelet-certificate-authority: nothing here can verify them.
	c.Kubelet = &tls.Config{GetClientCertificate: o.KubeletClient, InsecureSkipVerify: true}
	return connect.New(c)
}
