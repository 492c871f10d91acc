const page = document.documentElement;
const refresh = async () => {
  if (document.hidden || String(getSelection()) || document.activeElement !== document.body) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    translate(fresh);
    for (const part of ["header", "main"]) {
      document.querySelector(part).replaceWith(fresh.querySelector(part));
    }
    document.title = fresh.title;
    page.classList.remove("is-stale");
  } catch {
    page.classList.add("is-stale");
  }
};
setInterval(refresh, 5000);
document.addEventListener("visibilitychange", refresh);
