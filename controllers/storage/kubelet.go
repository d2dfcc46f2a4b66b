package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// ByKubelets makes and wipes directories by asking the kubelets of the nodes, through the API server: that knows where
// they are, and they believe it alone. Nodes need no rights for it, so that none can change the volumes of another.
func ByKubelets(client kubernetes.Interface) NodeVolumes { return kubelets{client} }

type kubelets struct{ client kubernetes.Interface }

func (k kubelets) Make(ctx context.Context, node, name string) (string, error) {
	answer, err := ask(ctx, k.request(http.MethodPut, node, name))
	if err != nil {
		return "", fmt.Errorf("node %q: %w", node, err)
	}
	var made struct{ Path string }
	if err := json.Unmarshal(answer, &made); err != nil {
		return "", fmt.Errorf("node %q does not say where it has made the volume: %w", node, err)
	}
	// A kubelet says only which directory of its own node it is, and of the name it was asked for.
	if !path.IsAbs(made.Path) || path.Clean(made.Path) != made.Path || path.Base(made.Path) != name {
		return "", fmt.Errorf("node %q says that it has made %s at %q", node, name, made.Path)
	}
	return made.Path, nil
}

func (k kubelets) Wipe(ctx context.Context, node, name string) error {
	if _, err := ask(ctx, k.request(http.MethodDelete, node, name)); err != nil {
		return fmt.Errorf("node %q: %w", node, err)
	}
	return nil
}

func (k kubelets) request(verb, node, name string) *rest.Request {
	return k.client.CoreV1().RESTClient().Verb(verb).Resource("nodes").Name(node).SubResource("proxy").Suffix("localVolumes", name)
}

// ask returns what a kubelet answers.
func ask(ctx context.Context, request *rest.Request) ([]byte, error) {
	var code int
	result := request.Do(ctx).StatusCode(&code)
	if code == http.StatusAccepted {
		return nil, errors.New("the volume is still being wiped")
	}
	err := result.Error()
	switch refused, text := refusal(err); {
	case refused == http.StatusInsufficientStorage:
		return nil, fmt.Errorf("%w: %s", ErrNoSpace, text)
	case text != "":
		return nil, errors.New(text)
	case err != nil:
		return nil, err
	}
	return result.Raw()
}

// refusal is what a kubelet has said in an error, and with which code. That is plain text, of which the client makes the cause
// of an error of its own, and nothing else. Errors of the API server on the way have no such cause.
func refusal(err error) (code int, text string) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return 0, ""
	}
	for _, cause := range status.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeUnexpectedServerResponse {
			return int(status.Status().Code), cause.Message
		}
	}
	return 0, ""
}
