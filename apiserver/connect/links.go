package connect

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// rewriter makes the links of an answer lead through the proxy: those that are
// absolute on the server that was asked.
type rewriter struct {
	prefix string  // path of the proxy, before the path of the server
	source url.URL // what was asked of the server
	host   string  // the host the client asked
}

// linkAttributes are the attributes of HTML elements that are URLs (HTML 4.01,
// index of attributes, and HTML 5).
var linkAttributes = map[string][]string{
	"a": {"href"}, "applet": {"codebase"}, "area": {"href"}, "audio": {"src"}, "base": {"href"}, "blockquote": {"cite"},
	"body": {"background"}, "button": {"formaction"}, "command": {"icon"}, "del": {"cite"}, "embed": {"src"},
	"form": {"action"}, "frame": {"longdesc", "src"}, "head": {"profile"}, "html": {"manifest"}, "iframe": {"longdesc", "src"},
	"img": {"longdesc", "src", "usemap"}, "input": {"src", "usemap", "formaction"}, "ins": {"cite"}, "link": {"href"},
	"object": {"classid", "codebase", "data", "usemap"}, "q": {"cite"}, "script": {"src"}, "source": {"src"}, "video": {"poster", "src"},
}

// rewrite changes the Location of a redirect, or the body of a page.
func (l *rewriter) rewrite(resp *http.Response) error {
	if to := resp.Header.Get("Location"); to != "" {
		u, err := url.Parse(to)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("error trying to parse Location header: %w", err))
		}
		resp.Header.Set("Location", l.link(u))
		return nil
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if strings.TrimSpace(kind) != "text/html" || resp.Request.Method == http.MethodHead {
		return nil
	}
	return l.page(resp)
}

// link is where u is to lead. Links to other hosts and relative ones stay.
func (l *rewriter) link(u *url.URL) string {
	elsewhere := u.Host != "" && u.Host != l.source.Host && u.Host != l.host
	if elsewhere || !strings.HasPrefix(u.Path, "/") {
		return u.String()
	}
	if u.Host != l.host {
		u.Scheme, u.Host = "", ""
	}
	if strings.HasPrefix(u.Path, l.prefix) {
		return u.String()
	}
	slash := strings.HasSuffix(u.Path, "/")
	u.Path = path.Join(l.prefix, u.Path)
	if slash {
		u.Path += "/"
	}
	u.RawPath = ""
	return u.String()
}

// page rewrites the body; encodings it does not know pass as they are.
func (l *rewriter) page(resp *http.Response) error {
	var changed bytes.Buffer
	switch resp.Header.Get("Content-Encoding") {
	case "":
		if err := l.html(resp.Body, &changed); err != nil {
			return err
		}
	case "gzip":
		in, err := gzip.NewReader(resp.Body)
		if err != nil {
			return fmt.Errorf("read compressed page: %w", err)
		}
		out := gzip.NewWriter(&changed)
		if err := l.html(in, out); err != nil {
			return err
		}
		if err := out.Close(); err != nil {
			return err
		}
	default:
		return nil
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(&changed)
	resp.Header.Del("Content-Length")
	resp.ContentLength = int64(changed.Len())
	return nil
}

func (l *rewriter) html(in io.Reader, out io.Writer) error {
	tokens := html.NewTokenizer(in)
	for {
		switch tokens.Next() {
		case html.ErrorToken:
			if err := tokens.Err(); err != io.EOF {
				return err
			}
			return nil
		case html.StartTagToken, html.SelfClosingTagToken:
			token := tokens.Token()
			l.attributes(&token)
			if _, err := io.WriteString(out, token.String()); err != nil {
				return err
			}
		default:
			if _, err := out.Write(tokens.Raw()); err != nil {
				return err
			}
		}
	}
}

func (l *rewriter) attributes(token *html.Token) {
	for _, name := range linkAttributes[token.Data] {
		for i, a := range token.Attr {
			if a.Key != name {
				continue
			}
			if u, err := url.Parse(a.Val); err == nil {
				token.Attr[i].Val = l.link(u)
			}
		}
	}
}
