package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/reach"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// maxAnswer bounds what is read of an answer: room for a patch that replaces the largest object.
const maxAnswer = 4 * codec.MaxBody

// client reaches one webhook. It keeps connections.
type client struct {
	config    admissionregistrationv1.WebhookClientConfig
	transport *http.Transport
	rest      *rest.RESTClient
	err       error // why there is none
}

func (c *client) same(config admissionregistrationv1.WebhookClientConfig) bool {
	return equality.Semantic.DeepEqual(c.config, config)
}

func (c *client) close() {
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

// reviews encodes and decodes what is sent to webhooks.
var reviews = func() runtime.NegotiatedSerializer {
	scheme := runtime.NewScheme()
	utilruntime.Must(admissionv1.AddToScheme(scheme))
	utilruntime.Must(admissionv1beta1.AddToScheme(scheme))
	return serializer.NegotiatedSerializerWrapper(runtime.SerializerInfo{
		Serializer: serializer.NewCodecFactory(scheme).LegacyCodec(admissionv1beta1.SchemeGroupVersion, admissionv1.SchemeGroupVersion)})
}()

// connect makes a client of a configuration. A Service is looked up at every new connection.
func (w *Webhooks) connect(config admissionregistrationv1.WebhookClientConfig) *client {
	c := &client{config: *config.DeepCopy()}
	c.err = c.open(w.config.Dial, w.cluster)
	return c
}

func (c *client) open(dial func(context.Context, string, string) (net.Conn, error), cluster resource.Cluster) error {
	settings := &rest.Config{QPS: -1, UserAgent: "kube-apiserver-admission", WarningHandler: rest.NoWarnings{}}
	settings.NegotiatedSerializer, settings.ContentType = reviews, runtime.ContentTypeJSON
	c.transport = &http.Transport{
		DialContext: (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second,
	}
	var name string
	switch s := c.config.Service; {
	case s != nil:
		name = s.Name + "." + s.Namespace + ".svc"
		port := ptr.Deref(s.Port, 443)
		host := net.JoinHostPort(name, strconv.Itoa(int(port)))
		settings.Host, settings.APIPath = "https://"+host, ptr.Deref(s.Path, "")
		c.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == host { // else it is a redirect
				found, err := reach.Address(ctx, cluster, s.Namespace, s.Name, port)
				if err != nil {
					return nil, err
				}
				address = found
			}
			return dial(ctx, network, address)
		}
	case c.config.URL == nil:
		return errors.New("webhook configuration must have either service or URL")
	default:
		u, err := url.Parse(*c.config.URL)
		if err != nil {
			return fmt.Errorf("unparsable URL: %w", err)
		}
		settings.Host, settings.APIPath = u.Scheme+"://"+u.Host, u.Path
		c.transport.ForceAttemptHTTP2 = isLocal(u.Hostname())
	}
	config, err := transport.TLSConfigFor(&transport.Config{TLS: transport.TLSConfig{CAData: c.config.CABundle, ServerName: name}})
	if err != nil {
		return err
	}
	c.transport.TLSClientConfig = config
	c.rest, err = rest.UnversionedRESTClientForConfigAndClient(settings, &http.Client{Transport: reach.Limit{Next: c.transport, Most: maxAnswer}, CheckRedirect: reach.Redirects})
	return err
}

// isLocal reports whether a host is this machine, where one connection of HTTP/2 carries all: elsewhere it would keep
// calls from spreading over several servers.
func isLocal(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.IsLoopback()
}

// post asks, and reads the answer into review.
func (c *client) post(ctx context.Context, body []byte, review runtime.Object) error {
	r := c.rest.Post().SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body)
	said := make(http.Header)
	tracing.Inject(ctx, said)
	for name, values := range said {
		r.SetHeader(name, values...)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if left := time.Until(deadline); left > 0 {
			r.Timeout((left + time.Second - 1).Truncate(time.Second)) // in whole seconds, rounded up
		}
	}
	// What goes wrong is in the error. It is no event of the server, which a webhook could fill its log with.
	return r.Do(klog.NewContext(ctx, logr.Discard())).Into(review)
}
