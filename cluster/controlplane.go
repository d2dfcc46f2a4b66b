package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/atomicfile"
	"github.com/skiff-k8s/skiff/cluster/keypair"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/services"
	"github.com/skiff-k8s/skiff/fakenodes"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/ingress"
	"github.com/skiff-k8s/skiff/scheduler"
)

// identity is whom a component is to the API server.
type identity struct {
	file   string // the base name of its certificate and kubeconfig
	user   string
	groups []string
}

// The identities of the components; each has the rights that the default roles
// of Kubernetes give to its user, or those of rights.yaml.
var (
	adminUser      = identity{"admin", "kubernetes-admin", []string{user.SystemPrivilegedGroup}}
	controllerUser = identity{"controllers", user.KubeControllerManager, nil}
	schedulerUser  = identity{"scheduler", user.KubeScheduler, nil}
	proxyUser      = identity{"proxy", user.KubeProxy, nil}
	ingressUser    = identity{"ingress", "skiff:ingress", nil}
	fakeNodesUser  = identity{"fake-nodes", "skiff:fake-nodes", nil}
	policyUser     = identity{"network-policy", "skiff:network-policy", nil}
	kubeletClient  = identity{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", nil}
)

// servingFile is the base name of the API server's own certificate.
const servingFile = "apiserver"

func nodeUser(node string) identity {
	return identity{"kubelet-" + node, "system:node:" + node, []string{user.NodesGroup}}
}

// controlPlane is the API server in this process, and how its neighbours reach
// it.
type controlPlane struct {
	run     *run
	backend backend.Backend
	server  *apiserver.Server
	served  chan error
	// What runs beside the API server, as ComponentStatuses tell of it.
	managing, scheduling part
}

// part is a part of the control plane that runs in this process, or does not.
type part struct{ running atomic.Bool }

func (p *part) run(ctx context.Context, work func(context.Context) error) error {
	p.running.Store(true)
	defer p.running.Store(false)
	return work(ctx)
}

func (p *part) probe(context.Context) error {
	if !p.running.Load() {
		return errors.New("not running")
	}
	return nil
}

// startControlPlane opens the storage and serves the API. It returns when the
// API is ready.
func startControlPlane(ctx context.Context, r *run) (*controlPlane, error) {
	storage, err := engines.Open(r.Storage)
	if err != nil {
		return nil, err // the URL in it has no password
	}
	p := &controlPlane{run: r, backend: storage, served: make(chan error, 1)}
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(err, storage.Close())
	}
	return p, nil
}

// The certificate by which extension servers know the API server.
const frontProxy = "front-proxy-client"

// tokenKeyFile is the key that signs tokens of service accounts.
const tokenKeyFile = "service-accounts"

func (p *controlPlane) start(ctx context.Context) error {
	r := p.run
	if _, err := r.pki.Server(servingFile, "kube-apiserver", r.hosts()...); err != nil {
		return err
	}
	serving, err := keypair.Open(r.pki.Files(servingFile))
	if err != nil {
		return err
	}
	tokenKey, err := r.pki.Key(tokenKeyFile)
	if err != nil {
		return err
	}
	if _, err := r.pki.Client(kubeletClient.file, kubeletClient.user, kubeletClient.groups...); err != nil {
		return err
	}
	toKubelets, err := keypair.Open(r.pki.Files(kubeletClient.file))
	if err != nil {
		return err
	}
	if _, err := r.proxies.Client(frontProxy, frontProxy); err != nil {
		return err
	}
	toExtensions, err := keypair.Open(r.proxies.Files(frontProxy))
	if err != nil {
		return err
	}
	if err := r.writeKubeconfigs(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", r.Listen.String())
	if err != nil {
		return err
	}
	p.server, err = apiserver.Standard(ctx, apiserver.Options{
		Backend:           p.backend,
		Encryption:        r.Encryption,
		ClientCA:          r.pki.CA(),
		ServiceAccountKey: tokenKey,
		Issuer:            "https://kubernetes.default.svc." + r.Domain,
		FrontProxyCA:      r.proxies.CA(),
		FrontProxyNames:   []string{frontProxy},
		FrontProxyClient:  toExtensions.Show,
		KubeletClient:     toKubelets.Show,
		ServiceCIDRs:      r.ServiceCIDRs,
		Advertise:         netip.AddrPortFrom(r.addresses[0], r.Listen.Port()),
		Components:        map[string]func(context.Context) error{"controller-manager": p.managing.probe, "scheduler": p.scheduling.probe},
		Log:               r.Log.With("component", "apiserver"),
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	guard.Go("API server", func() {
		p.served <- p.server.Serve(ctx, listener, &tls.Config{GetCertificate: serving.Serve, ClientAuth: tls.RequestClientCert})
	})
	return nil
}

// wait returns when the API server has ended and the storage is closed.
func (p *controlPlane) wait() error {
	err := <-p.served
	p.server.Close()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, p.backend.Close())
}

// hosts are the names and addresses under which the API is reached.
func (r *run) hosts() []string {
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + r.Domain}
	addresses := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	addresses = append(append(addresses, r.addresses...), r.network().gateways()...)
	for _, p := range r.ServiceCIDRs {
		addresses = append(addresses, nth(p, 1))
	}
	if addr := r.Listen.Addr(); !addr.IsUnspecified() {
		addresses = append(addresses, addr)
	}
	for _, a := range addresses {
		if name := a.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// writeKubeconfigs writes the administrator's kubeconfig.
func (r *run) writeKubeconfigs() error {
	files := []string{r.adminKubeconfig()}
	if r.Kubeconfig != "" {
		files = append(files, r.Kubeconfig)
	}
	for _, file := range files {
		if err := r.writeKubeconfig(file, adminUser); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) writeKubeconfig(file string, id identity) error {
	pair, err := r.pki.Client(id.file, id.user, id.groups...)
	if err != nil {
		return err
	}
	owner := &clientcmdapi.AuthInfo{ClientCertificateData: pair.CertPEM, ClientKeyData: pair.KeyPEM}
	if id.file != adminUser.file {
		// A component reads its certificate again when it is renewed; a person's
		// kubeconfig can be taken elsewhere.
		owner = &clientcmdapi.AuthInfo{}
		owner.ClientCertificate, owner.ClientKey = r.pki.Files(id.file)
	}
	config, err := kubeconfig(r.url(id), r.pki.CA(), strings.TrimPrefix(id.user, "system:"), owner)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, config, 0o600)
}

// url is how the owner of a kubeconfig reaches the API: a person on this
// machine by the loopback, unless it listens elsewhere alone; a node in a
// namespace by the host's address on the bridge.
func (r *run) url(id identity) string {
	addr := r.Listen.Addr()
	switch {
	case id.file == adminUser.file && addr.IsUnspecified():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case id.file == adminUser.file:
	default:
		addr = r.addresses[0]
	}
	return "https://" + netip.AddrPortFrom(addr, r.Listen.Port()).String()
}

// config reaches the API server in process, without a socket, as an identity.
func (p *controlPlane) config(id identity) *rest.Config {
	config := &rest.Config{
		Host: "https://in-process",
		Transport: p.server.Transport(&user.DefaultInfo{
			Name: id.user, Groups: append([]string{user.AllAuthenticated}, id.groups...),
		}),
		UserAgent: "skiff/" + id.file,
	}
	tune(config)
	return config
}

// tune makes a component speak protobuf and leaves limits to its work queues.
func tune(config *rest.Config) {
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.QPS = -1
	// A controller cannot do without what the API calls deprecated.
	config.WarningHandler = rest.NoWarnings{}
}

// controllers runs the controllers, the scheduler and the fake nodes, which share
// one informer factory, until ctx ends.
func (p *controlPlane) controllers(ctx context.Context) error {
	config := p.config(controllerUser)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	tokenKey, err := p.run.pki.Key(tokenKeyFile)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	manager, err := controllers.New(controllers.Config{
		Client: client, Metadata: meta, API: config, Informers: factory,
		RootCA: p.run.pki.CA(), ServiceAccountKey: tokenKey, PodCIDRs: p.run.PodCIDRs, LoadBalancers: p.run.LoadBalancers,
		Ingress:   services.Ingress{Controller: ingress.ControllerName, Ports: []uint16{p.run.Ingress.HTTPPort, p.run.Ingress.HTTPSPort}},
		SigningCA: p.run.pki.ca.CertPEM, SigningKey: p.run.pki.ca.KeyPEM,
	})
	if err != nil {
		return err
	}
	placing, err := kubernetes.NewForConfig(p.config(schedulerUser))
	if err != nil {
		return err
	}
	s, err := scheduler.New(scheduler.Config{Client: placing, Informers: factory, Log: p.run.Log.With("component", "scheduler")})
	if err != nil {
		return err
	}
	nodes, err := p.fakeNodes(factory)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	scheduled := make(chan error, 1)
	guard.Go("scheduler", func() {
		defer cancel()
		scheduled <- guard.Call("scheduler", func() error { return p.scheduling.run(ctx, s.Run) })
	})
	played := make(chan error, 1)
	guard.Go("fake nodes", func() {
		played <- guard.Call("fake nodes", func() error { return nodes.Run(ctx) })
	})
	err = p.managing.run(ctx, manager.Run)
	cancel()
	return errors.Join(err, <-scheduled, <-played)
}

func (p *controlPlane) fakeNodes(factory informers.SharedInformerFactory) (*fakenodes.Nodes, error) {
	client, err := kubernetes.NewForConfig(p.config(fakeNodesUser))
	if err != nil {
		return nil, err
	}
	c := fakenodes.Config{Client: client, Informers: factory, Count: p.run.FakeNodes, Log: p.run.Log.With("component", "fake nodes")}
	if p.run.Nodes > 0 {
		c.Taints = []corev1.Taint{{Key: fakenodes.Label, Value: "true", Effect: corev1.TaintEffectNoSchedule}}
	}
	return fakenodes.New(c)
}
