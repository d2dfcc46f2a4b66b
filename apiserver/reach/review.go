package reach

import (
	"context"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// mostReview bounds what is read of the answer to a review.
const mostReview = 1 << 20

// Reviewer makes a client of the server that a kubeconfig names, which answers reviews, and of nobody else: it follows no
// redirects, which could lead to who should not see the credentials that are shown with each review.
func Reviewer(kubeconfig string, timeout time.Duration, codec runtime.Codec) (*rest.RESTClient, error) {
	settings, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	settings.Timeout, settings.QPS, settings.WarningHandler = timeout, -1, rest.NoWarnings{}
	settings.ContentType = runtime.ContentTypeJSON
	settings.NegotiatedSerializer = serializer.NegotiatedSerializerWrapper(runtime.SerializerInfo{Serializer: codec})
	settings.Wrap(func(next http.RoundTripper) http.RoundTripper { return Limit{Next: next, Most: mostReview} })
	client, err := rest.HTTPClientFor(settings)
	if err != nil {
		return nil, err
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return rest.UnversionedRESTClientForConfigAndClient(settings, client)
}

// attempts are made to have a review answered, with longer and longer pauses.
const attempts = 5

// Persist asks for a review, and again while the server says that it may be better later. pause is the first one.
func Persist(ctx context.Context, pause time.Duration, ask func() error) error {
	var failure error
	backoff := wait.Backoff{Duration: pause, Factor: 1.5, Jitter: 0.2, Steps: attempts}
	err := wait.ExponentialBackoffWithContext(ctx, backoff, func(context.Context) (bool, error) {
		failure = ask()
		return failure == nil || !mayPass(failure), nil
	})
	if failure == nil && err != nil { // nothing was asked
		return fmt.Errorf("webhook call failed: %w", err)
	}
	return failure
}

// mayPass reports whether an error is one that asking again may mend.
func mayPass(err error) bool {
	_, later := apierrors.SuggestsClientDelay(err)
	return later || utilnet.IsConnectionReset(err) || utilnet.IsHTTP2ConnectionLost(err) ||
		apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err)
}
