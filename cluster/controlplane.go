package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/atomicfile"
	"github.com/skiff-k8s/skiff/cluster/keypair"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/services"
	"github.com/skiff-k8s/skiff/controlplane"
	"github.com/skiff-k8s/skiff/fakenodes"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/ingress"
)

// identity is whom a component is to the API server.
type identity struct {
	file   string // the base name of its certificate and kubeconfig
	user   string
	groups []string
}

// info is the identity as the API server sees it in process.
func (id identity) info() user.Info {
	return &user.DefaultInfo{Name: id.user, Groups: append([]string{user.AllAuthenticated}, id.groups...)}
}

func (id identity) agent() string { return "skiff/" + id.file }

// The identities of the components; each has the rights that the default roles
// of Kubernetes give to its user, or those of rights.yaml. Those of controllers,
// scheduler and fake nodes are package controlplane's.
var (
	adminUser     = identity{"admin", "kubernetes-admin", []string{user.SystemPrivilegedGroup}}
	proxyUser     = identity{"proxy", user.KubeProxy, nil}
	ingressUser   = identity{"ingress", "skiff:ingress", nil}
	policyUser    = identity{"network-policy", "skiff:network-policy", nil}
	kubeletClient = identity{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", nil}
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
	// beside is what runs beside the API server in this process.
	beside controlplane.Parts
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
		Settings:          r.Settings,
		ClientCA:          r.pki.CA(),
		ServiceAccountKey: tokenKey,
		Issuer:            "https://kubernetes.default.svc." + r.Domain,
		FrontProxyCA:      r.proxies.CA(),
		FrontProxyNames:   []string{frontProxy},
		FrontProxyClient:  toExtensions.Show,
		KubeletClient:     toKubelets.Show,
		ServiceCIDRs:      r.ServiceCIDRs,
		Advertise:         netip.AddrPortFrom(r.addresses[0], r.Listen.Port()),
		Components:        p.beside.Probes(),
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
	return controlplane.Reach(p.server, id.info(), id.agent())
}

// controllers runs the controllers, the scheduler and the fake nodes until ctx ends.
func (p *controlPlane) controllers(ctx context.Context) error {
	r := p.run
	tokenKey, err := r.pki.Key(tokenKeyFile)
	if err != nil {
		return err
	}
	c := controlplane.Config{
		Server: p.server, Log: r.Log,
		Controllers: &controllers.Config{
			RootCA: r.pki.CA(), ServiceAccountKey: tokenKey, PodCIDRs: r.PodCIDRs, LoadBalancers: r.LoadBalancers,
			Ingress:   services.Ingress{Controller: ingress.ControllerName, Ports: []uint16{r.Ingress.HTTPPort, r.Ingress.HTTPSPort}},
			SigningCA: r.pki.ca.CertPEM, SigningKey: r.pki.ca.KeyPEM,
		},
		FakeNodes: fakenodes.Config{Count: r.FakeNodes},
	}
	if r.Nodes > 0 {
		c.FakeNodes.Taints = []corev1.Taint{{Key: fakenodes.Label, Value: "true", Effect: corev1.TaintEffectNoSchedule}}
	}
	return p.beside.Run(ctx, c)
}
