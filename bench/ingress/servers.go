package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/ingress"
)

// writePair makes the certificate that both contenders show, and the authority of the API server.
func writePair(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, DNSNames: []string{"bench.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	ec, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: pkcs8}, "token.key": {Type: "EC PRIVATE KEY", Bytes: ec}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// serveBackend answers with 1 KB and 1 MB.
func serveBackend(config) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("plain: %s\nready: yes\n", l.Addr())
	mux := http.NewServeMux()
	for path, size := range map[string]int{"/1k": 1 << 10, "/1m": 1 << 20} {
		body := bytes.Repeat([]byte("x"), size)
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = w.Write(body)
		})
	}
	return http.Serve(l, mux)
}

// figures are what serveSkiff says before the load.
var figures = []string{
	"memory of the API server with them", "memory with the ingress", "time from its start until it serves them",
	"time of a change, median", "time of a change, longest",
}

// serveSkiff serves Ingresses of an API server in memory.
func serveSkiff(c config) error {
	ctx := context.Background()
	client, err := startAPI(ctx, c)
	if err != nil {
		return err
	}
	if err := makeRules(ctx, client, c); err != nil {
		return err
	}
	fmt.Println("memory of the API server with them:", settledMemory())

	opened := make(chan net.Listener, 2)
	served, err := ingress.New(ingress.Config{
		Client: client, NodeClient: client, NodeName: "n", Address: netip.MustParseAddr("192.0.2.1"), HTTPPort: 80, HTTPSPort: 443,
		Listen: func(network, _ string) (net.Listener, error) {
			l, err := net.Listen(network, "127.0.0.1:0")
			if err == nil {
				opened <- l
			}
			return l, err
		},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, c.backend)
		},
	})
	if err != nil {
		return err
	}
	begun := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- served.Run(ctx) }()
	plain, secure := <-opened, <-opened
	if err := waitFor(secure.Addr().String(), "changed.example", "/0/1k"); err != nil {
		return err
	}
	fmt.Println("time from its start until it serves them:", time.Since(begun).Round(time.Millisecond))
	if err := waitForStatus(ctx, client); err != nil {
		return err
	}
	fmt.Println("memory with the ingress:", settledMemory())
	if err := measureChanges(ctx, client, secure.Addr().String()); err != nil {
		return err
	}
	if err := profile(c.profile); err != nil {
		return err
	}
	fmt.Printf("plain: %s\nsecure: %s\nready: yes\n", plain.Addr(), secure.Addr())
	return <-ended
}

// settledMemory is the resident memory of this process without what is garbage.
func settledMemory() string {
	debug.FreeOSMemory()
	return residentOf(os.Getpid())
}

// profile writes a CPU profile from now on until the process is asked to end. Without a file it does nothing.
func profile(file string) error {
	if file == "" {
		return nil
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		<-asked
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			log.Fatal(err)
		}
		os.Exit(0)
	}()
	return nil
}

func startAPI(ctx context.Context, c config) (kubernetes.Interface, error) {
	ca, err := os.ReadFile(filepath.Join(c.dir, "tls.crt"))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(c.dir, "token.key"))
	if err != nil {
		return nil, err
	}
	server, err := apiserver.Standard(ctx, apiserver.Options{
		Backend: memory.New(), ClientCA: ca, ServiceAccountKey: key, Advertise: netip.MustParseAddrPort("192.0.2.1:6443"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(&rest.Config{
		Host: "https://in-process", QPS: -1,
		Transport:     server.Transport(&user.DefaultInfo{Name: "bench", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}),
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf"},
	})
}

func makeService(ctx context.Context, client kubernetes.Interface, name string) error {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := client.CoreV1().Services("default").Create(ctx, s, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](80)}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}},
	}, metav1.CreateOptions{})
	return err
}

func newIngress(name, path string) *networkingv1.Ingress {
	return &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressSpec{
		Rules: []networkingv1.IngressRule{{Host: name + ".example", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: path, PathType: ptr.To(networkingv1.PathTypePrefix), Backend: networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Number: 80}},
			}}},
		}}}},
	}}
}

func makeIngress(ctx context.Context, client kubernetes.Interface, c config, name, path string) error {
	if err := makeService(ctx, client, name); err != nil {
		return err
	}
	ing := newIngress(name, path)
	if name == "bench" {
		ing.Annotations = map[string]string{"nginx.ingress.kubernetes.io/ssl-redirect": "false"}
		if err := makeSecret(ctx, client, c); err != nil {
			return err
		}
		ing.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"bench.example"}, SecretName: "bench"}}
	}
	_, err := client.NetworkingV1().Ingresses("default").Create(ctx, ing, metav1.CreateOptions{})
	return err
}

func makeSecret(ctx context.Context, client kubernetes.Interface, c config) error {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Type: corev1.SecretTypeTLS, Data: make(map[string][]byte)}
	for _, name := range []string{"tls.crt", "tls.key"} {
		data, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil {
			return err
		}
		s.Data[name] = data
	}
	_, err := client.CoreV1().Secrets("default").Create(ctx, s, metav1.CreateOptions{})
	return err
}

// makeRules makes the Ingress that is asked, many others, and one that is changed later, each with a Service of its own.
func makeRules(ctx context.Context, client kubernetes.Interface, c config) error {
	if _, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := makeIngress(ctx, client, c, "bench", "/"); err != nil {
		return err
	}
	for i := range c.rules {
		if err := makeIngress(ctx, client, c, fmt.Sprintf("r%d", i), "/1k"); err != nil {
			return err
		}
	}
	return makeIngress(ctx, client, c, "changed", "/0/1k")
}

// waitForStatus waits until all Ingresses have their address.
func waitForStatus(ctx context.Context, client kubernetes.Interface) error {
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		list, err := client.NetworkingV1().Ingresses("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list.Items, func(ing networkingv1.Ingress) bool { return len(ing.Status.LoadBalancer.Ingress) == 0 }) {
			return nil
		}
	}
	return errors.New("not all Ingresses have an address")
}

// measureChanges changes one Ingress again and again.
func measureChanges(ctx context.Context, client kubernetes.Interface, address string) error {
	var times []time.Duration
	for i := range 40 {
		path := fmt.Sprintf("/%d/1k", i+1)
		ing, err := client.NetworkingV1().Ingresses("default").Get(ctx, "changed", metav1.GetOptions{})
		if err != nil {
			return err
		}
		ing.Spec.Rules[0].HTTP.Paths[0].Path = path
		begun := time.Now()
		if _, err := client.NetworkingV1().Ingresses("default").Update(ctx, ing, metav1.UpdateOptions{}); err != nil {
			return err
		}
		if err := waitFor(address, "changed.example", path); err != nil {
			return err
		}
		times = append(times, time.Since(begun))
	}
	slices.Sort(times)
	fmt.Println("time of a change, median:", times[len(times)/2].Round(100*time.Microsecond))
	fmt.Println("time of a change, longest:", times[len(times)-1].Round(100*time.Microsecond))
	return nil
}

// waitFor asks until a path is served: the backend has no such path, but it is the backend that says so.
func waitFor(address, host, path string) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		r, err := http.NewRequest("GET", "https://"+address+path, nil)
		if err != nil {
			return err
		}
		r.Host = host
		res, err := client.Do(r)
		if err != nil {
			return err
		}
		served := res.Header.Get("X-Content-Type-Options") == "nosniff" // net/http's 404, not the ingress'
		res.Body.Close()
		if served {
			return nil
		}
	}
	return fmt.Errorf("%s of %s is not served", path, host)
}
